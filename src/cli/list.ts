import type { Domain } from '../gen/drover/v1/domain.js';
import { formatSize } from '../util/bytes.js';
import type { AddCommand } from './command.js';
import { domainNote, stateWord } from './domain-view.js';
import { renderTable } from './table.js';

/** `drover list`. */
export const addList: AddCommand = (program, run) => {
  const command = program
    .command('list')
    .summary('List the domains of the host')
    .description('List the domains of the host, tombstones included.')
    .addHelpText('after', '\nExample:\n  $ drover list --json | jq -r ".domains[].spec.name"');
  command.action(() =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) => agent.domains.listDomains({}));
      session.print(answer, ({ width, style }) =>
        answer.domains.length === 0
          ? ['There are no domains here.']
          : renderTable(COLUMNS, answer.domains, width, style),
      );
      return undefined;
    }),
  );
};

const COLUMNS = [
  { title: 'NAME', value: (d: Domain) => d.spec?.name ?? '', cut: true },
  { title: 'STATE', value: stateWord },
  { title: 'MEMORY', value: (d: Domain) => formatSize(d.spec?.memoryBytes ?? 0), right: true },
  { title: 'VCPUS', value: (d: Domain) => String(d.spec?.vcpus ?? 0), right: true },
  { title: 'DISKS', value: (d: Domain) => disksOf(d), right: true },
  { title: 'NOTE', value: domainNote, cut: true },
];

function disksOf(domain: Domain): string {
  const disks = domain.spec?.disks ?? [];
  if (disks.length === 0) return 'none';
  return `${disks.length}, ${formatSize(disks.reduce((sum, disk) => sum + disk.sizeBytes, 0))}`;
}
