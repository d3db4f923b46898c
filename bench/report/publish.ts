import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../../scripts/guest/linux-guest.js';
import { describeMachine } from '../../scripts/soak/summary.js';
import { droverVersion } from '../../src/util/version.js';
import type { Journal } from '../journal.js';
import { SCENARIOS } from '../scenarios.js';
import { writePlot } from './plot.js';
import { type Results, summarizeScenario, summarizeTurns, writeResults } from './results.js';
import { writeTables } from './table.js';

const METHOD = [
  'Two hosts are two network namespaces of one machine; the link is a veth pair (MTU 9000) that tbf shapes at both ends (burst 256 KiB). With a delay it is a pair of TUN devices (MTU 9000), and a small program holds every packet back for that time; tbf shapes these too.',
  'Everybody moves the same guest with the same QEMU and command line options that mean the same: a Linux kernel and one small program, raw images, `cache=none`, `discard` and `detect-zeroes` on `unmap`. Images lie on the same file system.',
  'The movers take turns within a round, so that whatever changes on the machine hits all of them; ratios are made within a round, and their median counts. A guest goes to and fro between the hosts, and stands still while it is not its turn; agents and libvirtd stay. For the sparse disk every turn has a new guest, since moving it drops the zeros.',
  `Total time runs from the request until the mover says that it is done. For the floor it begins before the destination's QEMU is started, as everybody has to do that.`,
  'The gap is the time between the last heartbeat that came from the source and the first that came from the destination, as one process hears both serial consoles, less the time between two heartbeats.',
  `Necessary bytes are RAM pages that are not zero, found by reading the memory of the source's QEMU just before the move, and disk data that is not zero, in pieces of 64 KiB. Wire bytes are what both ends of the link counted, both directions; a segment of up to 64 KiB that the kernel hands over whole counts its headers once.`,
  'Every write has a number, and the guest tells when it is durable. After each move the numbers of heartbeats and writes must go on without a gap or a repeat; at the end the images must hold every write that was acknowledged.',
  'libvirt does not take part with the thin disk: its target takes all of the 200 GiB, and the machine has not that much. Guests that are moved together are compared with themselves, not with the floor.',
  'CPU seconds and the most resident memory are those of the agent, or of libvirtd, with all their threads; of both sides the larger counts.',
];

/** Puts a run together. */
export function collectResults(journal: Journal, command: string): Results {
  return {
    date: new Date().toISOString(),
    command,
    drover: droverVersion(),
    qemu: qemuVersion(),
    libvirt: libvirtVersion(),
    accelerator: 'tcg',
    machine: describeMachine(),
    method: METHOD,
    ...summarizeTurns(journal.turns, journal.verdicts),
    scenarios: SCENARIOS.flatMap((scenario) => summarizeScenario(scenario, journal.turns) ?? []),
  };
}

/** Publishes a run: the results, the plot, and the tables in the documents. Answers the file. */
export function publish(results: Results): string {
  const path = writeResults(results);
  writePlot(results);
  writeTables(results, path);
  return path;
}

function qemuVersion(): string {
  const text = execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' });
  return /version (\S+)/.exec(text)?.[1] ?? 'unknown';
}

function libvirtVersion(): string {
  const path = join(cacheFolder(), 'libvirt', 'version.txt');
  return existsSync(path) ? (readFileSync(path, 'utf8').split('-')[0] ?? '') : 'not measured';
}
