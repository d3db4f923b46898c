import type { JournalFile, RecordRule } from '../agent/offline.js';
import type { Page } from './session.js';
import { paint, type Style } from './style.js';
import { renderPairs, renderTable } from './table.js';

/** Journals that were read. */
export interface Found {
  readonly journals: readonly JournalFile[];
  /** What shows that the whole state is not where it was written. */
  readonly mismatches: readonly string[];
  readonly ruleOf: (record: string) => RecordRule | undefined;
}

type Entry = JournalFile['entries'][number];

/** Journals as one message for `--json`. */
export function journalMessage({ journals, mismatches }: Found): object {
  return { journals, mismatches };
}

/** One row for each journal. */
export function renderJournals({ journals }: Found, { width, style }: Page): string[] {
  if (journals.length === 0) return ['There are no journals.'];
  return renderTable<JournalFile>(
    [
      { title: 'MIGRATION', value: (j) => printable(j.migrationId) },
      { title: 'DOMAIN', value: (j) => printable(j.header?.domainName ?? j.domainUuid), cut: true },
      { title: 'SIDE', value: (j) => j.side },
      { title: 'LAST RECORD', value: (j) => printable(j.entries.at(-1)?.record ?? 'none') },
      { title: 'AT', value: (j) => printable(j.entries.at(-1)?.at ?? j.header?.createTime ?? '') },
      { title: 'HEALTH', value: (j) => paintHealth(j, style) },
    ],
    journals,
    width,
    style,
  );
}

/** The header and all records of one journal. */
export function renderJournal(
  journal: JournalFile,
  ruleOf: Found['ruleOf'],
  { width, style }: Page,
): string[] {
  const { header, entries } = journal;
  const last = entries.at(-1);
  const meaning = last && ruleOf(last.record)?.meaning;
  const pairs = renderPairs([
    ['journal', journal.path],
    ['health', journal.problem ?? journal.health],
    ['says', last ? `${last.record}${meaning ? `: ${meaning}` : ''}` : 'Nothing was done yet.'],
    ['domain', header ? `${header.domainName} (${header.domainUuid})` : journal.domainUuid],
    ['migration', journal.migrationId],
    ['side', journal.side],
    ['source host', header?.sourceHost ?? ''],
    ['destination host', header?.destinationHost ?? ''],
    ['epoch, generation', header ? `${header.epoch}, ${header.generation}` : ''],
    ['attempt', header ? String(header.attempt) : ''],
    ['journal id', header?.journalId ?? ''],
    ['made', header ? `${header.createTime}, in the boot ${header.bootId}` : ''],
    ['written on', header ? detailsOf(header.binding) : ''],
    ['details', header ? detailsOf(header.details) : ''],
  ]).map(printable);
  if (journal.health !== 'sound') pairs[1] = paint(style, 'red', pairs[1] ?? '');
  if (entries.length === 0) return pairs;
  const star = ({ record }: Entry) => (ruleOf(record)?.durable ? '*' : '');
  const table = renderTable<Entry>(
    [
      { title: 'N', value: (e) => String(e.n), right: true },
      { title: 'AT', value: (e) => printable(e.at) },
      { title: 'RECORD', value: (e) => `${printable(e.record)}${star(e)}` },
      { title: 'DETAILS', value: ({ n, at, record, ...rest }) => detailsOf(rest), cut: true },
    ],
    entries,
    width,
    style,
  );
  return [...pairs, '', ...table];
}

function paintHealth({ health, tail }: JournalFile, style: Style): string {
  if (health !== 'sound') return paint(style, 'red', health);
  return tail === 'torn' ? 'sound, torn tail' : 'sound';
}

function detailsOf(details: object): string {
  const words = Object.entries(details).map(([name, value]) => {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    return `${name}=${/\s/.test(text) ? JSON.stringify(value) : text}`;
  });
  return printable(words.join(' '));
}

/** Some of it came from another host: no control characters may reach the terminal. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are looked for.
  return text.replaceAll(/[\x00-\x1f\x7f-\x9f]/g, ' ');
}
