import { render } from 'preact';
import './styles/page.css';
import './styles/chat.css';
import './styles/markdown.css';
import { startChats } from './state/chats';
import { watchServer } from './state/server';
import { App } from './ui/app';

await startChats();
render(<App />, document.getElementById('app')!);
void watchServer();
