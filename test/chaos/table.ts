import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { droverVersion } from '../../src/util/version.js';
import { FAULTS } from './faults.js';
import { PHASES } from './points.js';
import { type ResultLine, readResults } from './results.js';

const COLUMNS = [...PHASES, 'whole'] as const;

/** What must never be, by the words in which it is told. */
const VERDICTS: readonly (readonly [name: string, words: RegExp])[] = [
  ['guest ran twice, or went back in time', / again, after /],
  ['acknowledged writes lost, skipped or torn', /writes lost|torn|jump from/],
  ['QEMU itself crashed', /was ended by SIG(SEGV|ABRT|BUS|FPE)/],
  ['something left over', /^left over/],
  ['unexplained outcome', /^unexplained|^it says/],
  ['not settled within 30 s, or the guest does not run', /^not settled|written nothing|is at /],
  ['the next migration failed', /^the next migration/],
];

const NOT_COVERED = [
  'Power loss with a volatile cache: disks are written through here, and nothing of the host cache is lost when a host is killed (see test/qemu/power-loss.test.ts).',
  'Clocks that jump, and state directories that are rolled back or cloned.',
  'KVM: everything runs under TCG, two hosts share one machine, and links are loopback behind a proxy.',
  'Two faults in one migration, and more than two hosts.',
  'Links that lose single packets: what a black hole swallows arrives late, as TCP would have it.',
  'I/O errors on the source, taps and shared disks, guests with a kernel (see test/qemu for these without faults).',
];

/**
 * Writes the table of all results in a folder, `results*.jsonl`, as Markdown, and beside it what the
 * bench's goals want to know of killed agents.
 *
 * @param notes What else readers should know, a paragraph each.
 */
export function writeTable(path: string, folder: string, notes: readonly string[]): void {
  const files = readdirSync(folder).filter((name) => /^results.*\.jsonl$/.test(name));
  const lines = files.sort().flatMap((name) => read(join(folder, name)));
  const specials = ['kill-mirror', 'kill-precopy', 'kill-window'].map(
    (name) => [name, read(join(folder, `${name}.jsonl`))] as const,
  );
  const text = [
    '# Fault matrix',
    '',
    'What became of real migrations in which something went wrong on purpose. Every row is a kind of',
    'fault, every column the part of the migration in which it struck; a cell says how many runs there',
    'were and how many of them failed the judge. Written by `npm run test:chaos -- --table`;',
    'what is judged is told in [CONTRIBUTING](../CONTRIBUTING.md). Guests run at a lower priority than agents.',
    '',
    ...about(lines),
    '',
    ...notes.flatMap((note) => [note, '']),
    ...matrix(lines),
    '',
    ...verdicts([...lines, ...specials.flatMap(([, own]) => own)]),
    '',
    ...specialTables(specials),
    '## Not covered',
    '',
    ...NOT_COVERED.map((one) => `- ${one}`),
    '',
  ];
  writeFileSync(path, text.join('\n'));
  const goOn = specials.filter(([name]) => name !== 'kill-window').flatMap(([, own]) => own);
  const killed = `${JSON.stringify(killedAgents(struckOf(goOn)), undefined, 2)}\n`;
  writeFileSync(join(dirname(path), 'killed-agents.json'), killed);
}

/** How many migrations went on although an agent was killed, and what was sent a second time. */
function killedAgents(lines: readonly ResultLine[]): object {
  const percent = (part: number, whole: number) => Math.round((part / whole) * 1000) / 10;
  const succeeded = lines.filter(({ migration }) => migration === 'SUCCEEDED').length;
  // All but the last of several mirrors or streams was in vain, each at most as large as the last.
  const inVain = (bytes: number, times: number) => bytes * (1 - 1 / Math.max(1, times));
  const again = (line: ResultLine) =>
    inVain(line.diskBytes, line.mirrors) + inVain(line.ramBytes, line.sends);
  const bytes = sum(lines, ({ diskBytes, ramBytes }) => diskBytes + ramBytes);
  return {
    runs: lines.length,
    succeeded_percent: percent(succeeded, lines.length),
    sent_again_percent: percent(sum(lines, again), bytes),
  };
}

function read(path: string): ResultLine[] {
  return existsSync(path) ? readResults(path) : [];
}

function about(lines: readonly ResultLine[]): string[] {
  const qemu = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
  const version = /version (\S+)/.exec(qemu)?.[1] ?? 'unknown';
  const times = lines.map(({ at }) => at).sort();
  const seeds = [...new Set(lines.map(({ seed }) => seed.replace(/[.+].*$/, '')))];
  const points = new Set(lines.map(({ point }) => point));
  return [
    `- Runs: from ${times[0]} to ${times.at(-1)}, seed ${seeds.join(', ')}`,
    `- Versions: Drover ${droverVersion()}, QEMU ${version} under TCG, Node ${process.versions.node}, ${cpus().length} cores`,
    `- ${lines.length} runs, of which ${struckOf(lines).length} came to their point; ${points.size} points; ` +
      `${sum(lines, ({ migrations }) => migrations)} migrations in all, those after a fault included`,
  ];
}

function matrix(lines: readonly ResultLine[]): string[] {
  const kinds = [...new Set(FAULTS.map(({ kind }) => kind))];
  const struck = struckOf(lines);
  const row = (name: string, own: readonly ResultLine[]) => {
    const cells = COLUMNS.map((phase) => cell(own.filter((line) => line.phase === phase)));
    return `| ${[name, ...cells, cell(own)].join(' | ')} |`;
  };
  return [
    `| fault | ${COLUMNS.join(' | ')} | all |`,
    `| --- |${' ---: |'.repeat(COLUMNS.length + 1)}`,
    ...kinds.map((kind) =>
      row(
        kind,
        struck.filter((line) => line.kind === kind),
      ),
    ),
    row('**all**', struck),
    '',
    'A cell reads "runs" or "runs / failures". `whole`: faults that last from the beginning to the end.',
  ];
}

function cell(lines: readonly ResultLine[]): string {
  const failures = failed(lines).length;
  if (lines.length === 0) return '';
  return failures === 0 ? `${lines.length}` : `${lines.length} / **${failures}**`;
}

function verdicts(lines: readonly ResultLine[]): string[] {
  const rows = VERDICTS.map(([name, words]) => {
    const own = lines.filter(({ violations }) => violations.some((one) => words.test(one)));
    return `| ${name} | ${own.length} |`;
  });
  const known = (text: string) => VERDICTS.some(([, words]) => words.test(text));
  const others = lines.filter(({ violations }) => violations.some((one) => !known(one)));
  return ['| verdict | runs |', '| --- | ---: |', ...rows, `| anything else | ${others.length} |`];
}

function specialTables(specials: readonly (readonly [string, readonly ResultLine[]])[]): string[] {
  const rows = specials.flatMap(([name, lines]) => {
    const struck = struckOf(lines);
    if (struck.length === 0) return [];
    const succeeded = struck.filter(({ migration }) => migration === 'SUCCEEDED');
    const again = struck.filter(({ mirrors, sends }) => mirrors > 1 || sends > 1);
    const cells = [
      name,
      struck.length,
      succeeded.length,
      name === 'kill-window' ? '' : again.length,
      worst(struck.map(({ saysMs }) => saysMs)),
      name === 'kill-window' ? worst(struck.map(({ guestMs }) => guestMs)) : '',
      failed(struck).length,
    ];
    return [`| ${cells.join(' | ')} |`];
  });
  if (rows.length === 0) return [];
  return [
    '## Killed agents',
    '',
    'One of the two agents is killed with SIGKILL and started again at once.',
    '',
    '| phase | runs | went on to success | sent again | longest until it says which (ms) | longest until the guest runs (ms) | failures |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows,
    '',
  ];
}

function worst(values: readonly number[]): string {
  return String(Math.max(...values));
}

function struckOf(lines: readonly ResultLine[]): ResultLine[] {
  return lines.filter(({ struck, violations }) => struck || violations.length > 0);
}

function failed(lines: readonly ResultLine[]): ResultLine[] {
  return lines.filter(({ violations }) => violations.length > 0);
}

function sum(lines: readonly ResultLine[], of: (line: ResultLine) => number): number {
  return lines.reduce((total, line) => total + of(line), 0);
}
