import type { Host, Pool } from '../gen/drover/v1/host.js';
import { formatSize } from '../util/bytes.js';
import type { AddCommand } from './command.js';
import { type Page, present } from './session.js';
import { renderPairs, renderTable } from './table.js';

/** `drover host`. */
export const addHost: AddCommand = (program, run) => {
  const command = program
    .command('host')
    .summary('Show the host, its QEMU and pools')
    .description('Show the host: QEMU, memory, pools and kernels.')
    .addHelpText('after', '\nExample:\n  $ drover host');
  command.action(() =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) => agent.hosts.getHost({}));
      session.print(answer, (page) => renderHost(present(answer.host, 'host'), page));
      return undefined;
    }),
  );
};

function renderHost(host: Host, { width, style }: Page): string[] {
  const pairs = renderPairs([
    ['name', host.name],
    ['agent', `${host.agentVersion}, protocol ${host.protocolVersion}`],
    ['QEMU', host.qemuVersion || 'none'],
    ['problem', host.qemuProblem],
    [
      'memory',
      `${formatSize(host.availableMemoryBytes)} of ${formatSize(host.memoryBytes)} available`,
    ],
    ['CPUs', String(host.cpus)],
    ['kernels', host.kernels.join(', ')],
  ]);
  if (host.pools.length === 0) return pairs;
  return [...pairs, '', ...renderTable(POOL_COLUMNS, host.pools, width, style)];
}

const POOL_COLUMNS = [
  { title: 'POOL', value: (p: Pool) => p.name, cut: true },
  { title: 'SIZE', value: (p: Pool) => formatSize(p.sizeBytes), right: true },
  { title: 'AVAILABLE', value: (p: Pool) => formatSize(p.availableBytes), right: true },
  { title: 'SHARED', value: (p: Pool) => (p.shared ? 'yes' : 'no') },
];
