/** The messages of the open conversation. It follows the newest text until the user scrolls up. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { childrenOf, visiblePath } from '../lib/conversation';
import { current } from '../state/chats';
import { isRunning } from '../state/runs';
import { t } from '../state/settings';
import { Icon } from './icons';
import { AssistantMessage, UserMessage } from './message';
import { ToolMessage } from './tools';

const NEAR_PX = 48;
const VIEWS = { user: UserMessage, assistant: AssistantMessage, tool: ToolMessage };

/** Keeps a box at its end while `following`; scrolling up ends that, reaching the end resumes it. */
function useFollow(key: string, count: number, content: unknown) {
  const box = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const lastTop = useRef(0);
  const [away, setAway] = useState(false);
  const toEnd = (): void => {
    following.current = true;
    setAway(false);
    box.current!.scrollTop = box.current!.scrollHeight;
  };
  const onScroll = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    const near = scrollHeight - clientHeight - scrollTop < NEAR_PX;
    // Only a move up is the user's wish to read; text that grows moves the end away, not the user.
    if (scrollTop < lastTop.current - 1 && !near) following.current = false;
    else if (near) following.current = true;
    lastTop.current = scrollTop;
    setAway(!near && !following.current);
  };
  useLayoutEffect(toEnd, [key, count]);
  useLayoutEffect(() => {
    if (following.current) box.current!.scrollTop = box.current!.scrollHeight;
  }, [content]);
  useEffect(() => {
    // The box gets smaller when the input grows or a phone shows its keyboard.
    const element = box.current!;
    const observer = new ResizeObserver(() => {
      if (following.current) element.scrollTop = element.scrollHeight;
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return { box, away, toEnd, onScroll };
}

export function Thread() {
  const conversation = current.value;
  const path = visiblePath(conversation);
  const children = childrenOf(conversation);
  const disabled = isRunning();
  const { box, away, toEnd, onScroll } = useFollow(conversation.id, path.length, conversation);
  return (
    <div class="thread-frame">
      <div ref={box} class="thread" tabIndex={0} role="region" aria-label={t('messages')} onScroll={onScroll}>
        <div class="column">
          {path.length === 0 && (
            <div class="welcome">
              <p>{t('welcome')}</p>
              <p class="hint">{t('welcomeHint')}</p>
            </div>
          )}
          {path.map((message, index) => {
            const View = VIEWS[message.role];
            const last = index === path.length - 1;
            const versions = children.get(message.parent)!;
            return <View key={message.id} message={message} versions={versions} disabled={disabled} last={last} />;
          })}
        </div>
      </div>
      {away && (
        <button type="button" class="to-end icon-button" aria-label={t('toBottom')} onClick={toEnd}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}
