/** Settings: appearance, replies, tools, sampling, data, keys. Changes apply at once. */
import { useRef } from 'preact/hooks';
import { apiKey } from '../lib/api';
import { readSampling, SAMPLING_FIELDS, type SamplingField, type Settings } from '../lib/settings';
import { deleteAll, exportChats, importChats, summaries } from '../state/chats';
import { EXAMPLE_TOOLS } from '../lib/tools';
import { canCall, canThink, stop, tools } from '../state/runs';
import { model, props } from '../state/server';
import { change, settings, t } from '../state/settings';
import { settingsOpen } from '../state/view';
import { Dialog } from './dialog';
import { download } from './dom';

type ChoiceName = 'theme' | 'language' | 'thinking' | 'toolUse';

interface ChoiceProps<K extends ChoiceName> {
  name: K;
  label: string;
  options: [Settings[K], string][];
  disabled?: boolean;
  hint?: string;
}

function Choice<K extends ChoiceName>({ name, label, options, disabled, hint }: ChoiceProps<K>) {
  return (
    <label class="field">
      <span>{label}</span>
      <select
        value={settings.value[name]}
        disabled={disabled}
        onChange={(event) => change({ [name]: event.currentTarget.value as Settings[K] })}
      >
        {options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
      {hint && <small>{hint}</small>}
    </label>
  );
}

function SamplingInput({ field }: { field: SamplingField }) {
  const { key, min, max, step } = field;
  const value = settings.value.sampling[key];
  const otherwise = props.value?.default_generation_settings?.[key];
  return (
    <label class="field">
      <span>{t(key)}</span>
      <input
        type="number"
        inputMode="decimal"
        min={min}
        max={max}
        step={step >= 1 ? 1 : 'any'}
        value={value ?? ''}
        placeholder={otherwise == null ? t('serverDefault') : String(otherwise)}
        onChange={(event) => {
          const { sampling } = settings.value;
          const [, read] = readSampling(field, event.currentTarget.valueAsNumber);
          const { [key]: _old, ...others } = sampling;
          change({ sampling: read === undefined ? others : { ...others, [key]: read } });
          event.currentTarget.value = read === undefined ? '' : String(read);
        }}
      />
    </label>
  );
}

function Appearance() {
  return (
    <fieldset>
      <legend>{t('appearance')}</legend>
      <div class="grid">
        <Choice
          name="theme"
          label={t('theme')}
          options={[
            ['system', t('themeSystem')],
            ['light', t('themeLight')],
            ['dark', t('themeDark')],
          ]}
        />
        <Choice
          name="language"
          label={t('language')}
          options={[
            ['system', t('languageSystem')],
            ['en', 'English'],
            ['zh', '中文'],
          ]}
        />
      </div>
    </fieldset>
  );
}

function Replies() {
  return (
    <fieldset>
      <legend>{t('reply')}</legend>
      <label class="field">
        <span>{t('systemPrompt')}</span>
        <textarea
          rows={4}
          value={settings.value.systemPrompt}
          onInput={(event) => change({ systemPrompt: event.currentTarget.value })}
        />
        <small>{t('systemPromptHint')}</small>
      </label>
      <Choice
        name="thinking"
        label={t('thinkingChoice')}
        disabled={!canThink()}
        hint={canThink() ? undefined : t('thinkingUnsupported')}
        options={[
          ['default', t('thinkingDefault')],
          ['on', t('thinkingOn')],
          ['off', t('thinkingOff')],
        ]}
      />
    </fieldset>
  );
}

function Tools() {
  const { tools: source } = settings.value;
  const { problem } = tools.value;
  return (
    <fieldset>
      <legend>{t('tools')}</legend>
      <label class="field">
        <span>{t('toolDefinitions')}</span>
        <textarea
          class="source"
          rows={6}
          spellcheck={false}
          value={source}
          aria-invalid={problem !== null}
          aria-describedby="tools-problem"
          onInput={(event) => change({ tools: event.currentTarget.value })}
        />
        <small>{t(canCall() ? 'toolsHint' : 'toolsUnsupported')}</small>
      </label>
      <p id="tools-problem" class="failed" role="status">
        {problem && t(problem.text, problem.values)}
      </p>
      {!source.trim() && (
        <div class="buttons start">
          <button type="button" onClick={() => change({ tools: EXAMPLE_TOOLS })}>
            {t('toolsExample')}
          </button>
        </div>
      )}
      <Choice
        name="toolUse"
        label={t('toolUse')}
        disabled={!canCall()}
        options={[
          ['none', t('toolUseNone')],
          ['auto', t('toolUseAuto')],
          ['required', t('toolUseRequired')],
        ]}
      />
    </fieldset>
  );
}

function Sampling() {
  return (
    <fieldset>
      <legend>{t('sampling')}</legend>
      <p class="hint">{t('samplingHint')}</p>
      <div class="grid">
        {SAMPLING_FIELDS.map((field) => (
          <SamplingInput key={field.key} field={field} />
        ))}
      </div>
      <div class="buttons">
        <button type="button" onClick={() => change({ sampling: {}, thinking: 'default' })}>
          {t('resetSampling')}
        </button>
      </div>
    </fieldset>
  );
}

function Data() {
  const file = useRef<HTMLInputElement>(null);
  const save = async (): Promise<void> => {
    download(`conversations-${new Date().toISOString().slice(0, 10)}.json`, await exportChats());
  };
  return (
    <fieldset>
      <legend>{t('data')}</legend>
      <div class="buttons start">
        <button type="button" disabled={!summaries.value.length} onClick={() => void save()}>
          {t('exportAll')}
        </button>
        <button type="button" onClick={() => file.current!.click()}>
          {t('importFile')}
        </button>
        <input
          ref={file}
          id="import-file"
          type="file"
          accept="application/json,.json"
          hidden
          onChange={async (event) => {
            const input = event.currentTarget;
            if (input.files?.[0]) await importChats(input.files[0]);
            input.value = '';
          }}
        />
        <button type="button" disabled={!apiKey.get()} onClick={() => { apiKey.set(''); change({}); }}>
          {t('clearKey')}
        </button>
        <button type="button" class="danger" disabled={!summaries.value.length} onClick={() => void deleteAll(stop)}>
          {t('deleteAll')}
        </button>
      </div>
    </fieldset>
  );
}

function Keys() {
  const keys = [
    ['Ctrl/⌘ K', t('keySearch')],
    ['Shift Ctrl/⌘ O', t('keyNew')],
    ['Esc', t('keyStop')],
    ['Enter', t('keySend')],
    ['Shift Enter', t('keyNewline')],
    ['Ctrl/⌘ Enter', t('keyResults')],
  ];
  return (
    <fieldset>
      <legend>{t('shortcuts')}</legend>
      <ul class="keys">
        {keys.map(([key, what]) => (
          <li key={key}>
            <kbd>{key}</kbd> {what}
          </li>
        ))}
      </ul>
    </fieldset>
  );
}

export function SettingsDialog() {
  if (!settingsOpen.value) return null;
  return (
    <Dialog title={t('settings')} wide onClose={() => (settingsOpen.value = false)}>
      <Appearance />
      <Replies />
      <Tools />
      <Sampling />
      <Data />
      <Keys />
      {props.value && (
        <p class="hint">{t('server', { build: props.value.build ?? '', model: model.value ?? '' })}</p>
      )}
    </Dialog>
  );
}
