import {
  type DiskSummary,
  type Downtime,
  type Migration,
  Migration_Transport,
  type Summary,
} from '../gen/drover/v1/migration.js';
import { formatDuration, formatSize } from '../util/bytes.js';
import { shortName } from './figures.js';
import { paint, type Style } from './style.js';
import { renderTable } from './table.js';

const DOWNTIME_PARTS: readonly (readonly [string, (d: Downtime) => number, string])[] = [
  ['settle', (d) => d.settleUs, 'mirrors settled'],
  ['ram', (d) => d.ramUs, 'last RAM and device state sent'],
  ['load', (d) => d.loadUs, 'guest loaded on the destination'],
  ['commit', (d) => d.commitUs, 'given up by the source'],
  ['resume', (d) => d.resumeUs, 'taken and resumed by the destination'],
];

/** The figures of a migration that has ended well: times, the downtime by parts, bytes, storage. */
export function renderSummary(migration: Migration, width: number, style: Style): string[] {
  const { summary } = migration;
  const mark = paint(style, 'green', style.unicode ? '✔' : 'ok:');
  const title = `${mark} ${migration.domainName} runs on ${migration.destinationHost}.`;
  if (!summary) return [title];
  return [title, '', ...figures(summary, migration), ...disks(summary.disks, width, style)];
}

function figures(summary: Summary, { transport, transportReason }: Migration): string[] {
  const rows: string[][] = [['total time', formatDuration(summary.totalTimeMs), '']];
  if (summary.downtime) {
    const { downtime } = summary;
    const byQemu = `${formatDuration(summary.qemuDowntimeMs)} by QEMU's own count`;
    rows.push(['downtime', milliseconds(downtime.totalUs), byQemu]);
    for (const [name, pick, what] of DOWNTIME_PARTS) {
      rows.push([`  ${name}`, milliseconds(pick(downtime)), what]);
    }
    rows.push(['  of it safety', milliseconds(downtime.safetyUs), 'durable records, round trip']);
  }
  const passes = `RAM in ${summary.ramPasses} ${summary.ramPasses === 1 ? 'pass' : 'passes'}`;
  rows.push(['transferred', formatSize(summary.transferredBytes), passes]);
  if (transport !== Migration_Transport.UNSPECIFIED) {
    rows.push(['transport', shortName(transport), transportReason]);
  }
  const most = (i: number) => Math.max(...rows.map((row) => row[i]?.length ?? 0));
  const [first, second] = [most(0), most(1)];
  return rows.map(([a = '', b = '', c = '']) =>
    `  ${a.padEnd(first)}  ${b.padStart(second)}  ${c}`.trimEnd(),
  );
}

function disks(rows: readonly DiskSummary[], width: number, style: Style): string[] {
  if (rows.length === 0) return [];
  const table = renderTable<DiskSummary>(
    [
      { title: 'DISK', value: (d) => d.diskId, cut: true },
      { title: 'SIZE', value: (d) => formatSize(d.sizeBytes), right: true },
      { title: 'SENT', value: (d) => formatSize(d.transferredBytes), right: true },
      {
        title: 'TOOK ON SOURCE',
        value: (d) => formatSize(d.sourceAllocatedBytes),
        right: true,
      },
      {
        title: 'TAKES ON DESTINATION',
        value: (d) => formatSize(d.destinationAllocatedBytes),
        right: true,
      },
    ],
    rows,
    width - 2,
    style,
  );
  return ['', ...table.map((line) => `  ${line}`)];
}

/** Parts of a downtime side by side read best in one unit. */
function milliseconds(us: number): string {
  return `${(us / 1000).toFixed(1)} ms`;
}
