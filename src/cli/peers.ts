import type { Peer } from '../gen/drover/v1/host.js';
import { formatDuration } from '../util/bytes.js';
import type { AddCommand } from './command.js';
import { renderTable } from './table.js';

/** `drover peers`. */
export const addPeers: AddCommand = (program, run) => {
  const command = program
    .command('peers')
    .summary('List the hosts to move to')
    .description('List the hosts that domains can be moved to, and whether they answer.')
    .addHelpText('after', '\nExample:\n  $ drover peers');
  command.action(() =>
    run(command, async (session) => {
      const answer = await session.withAgent((agent) => agent.hosts.listPeers({}));
      session.print(answer, ({ width, style }) =>
        answer.peers.length === 0
          ? ['The agent has no peers; add them to its configuration.']
          : renderTable(COLUMNS, answer.peers, width, style),
      );
      return undefined;
    }),
  );
};

const COLUMNS = [
  { title: 'NAME', value: (p: Peer) => p.name, cut: true },
  { title: 'ADDRESS', value: (p: Peer) => p.address, cut: true },
  {
    title: 'ANSWERS',
    value: (p: Peer) => (p.reachable ? `in ${formatDuration(p.roundTripMs)}` : 'no'),
  },
  { title: 'VERSION', value: (p: Peer) => p.agentVersion },
  { title: 'PROBLEM', value: (p: Peer) => p.problem, cut: true },
];
