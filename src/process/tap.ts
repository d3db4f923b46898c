import { readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { ProcessError } from './errors.js';
import { run } from './run.js';

/** A tap device to make. */
export interface TapRequest {
  /** Interface name: 1 to 15 letters, digits, "-", "_" or ".". */
  readonly name: string;
  /** Name of an existing bridge that it becomes a port of. */
  readonly bridge: string;
  /** The only user, besides root, that may open it. Default: nobody. */
  readonly owner?: number;
}

/** Why a tap could not be made. */
export type TapProblem = 'NAME_INVALID' | 'NOT_PERMITTED' | 'BRIDGE_MISSING';

/** A tap cannot be made, for a reason that the administrator can change. */
export class TapError extends Error {
  override readonly name = 'TapError';
  readonly problem: TapProblem;

  constructor(problem: TapProblem, message: string) {
    super(message);
    this.problem = problem;
  }
}

interface TapOptions {
  readonly signal?: AbortSignal;
}

const LIMIT_MS = 10_000;
const CAP_NET_ADMIN = 12n;
const TUN = '/dev/net/tun';

/**
 * Makes a tap, puts it into its bridge and switches it on. Rejects with TapError if the host is not
 * set up for it and with ProcessError if `ip` fails; nothing is left behind then.
 */
export async function createTap(tap: TapRequest, options: TapOptions = {}): Promise<void> {
  assertName(tap.name);
  assertName(tap.bridge);
  if (!mayChangeNetwork()) {
    throw new TapError(
      'NOT_PERMITTED',
      'The agent may not make network interfaces. Run it as root or with CAP_NET_ADMIN, ' +
        `or give the domain a "user" NIC instead of ${tap.name}.`,
    );
  }
  const limits = { limitMs: LIMIT_MS, ...options };
  await run('ip', ['link', 'show', 'dev', tap.bridge, 'type', 'bridge'], limits).then(
    (output) => output.trim() || missing(tap.bridge),
    (error: unknown) => {
      if (error instanceof ProcessError && error.exit) missing(tap.bridge);
      throw error;
    },
  );
  const owner = tap.owner === undefined ? [] : ['user', String(tap.owner)];
  if (tap.owner !== undefined) await assertOpenToAll();
  await run('ip', ['tuntap', 'add', 'dev', tap.name, 'mode', 'tap', ...owner], limits);
  try {
    await run('ip', ['link', 'set', 'dev', tap.name, 'master', tap.bridge, 'up'], limits);
  } catch (error) {
    await deleteTap(tap.name).catch(() => undefined);
    throw error;
  }
}

/** Removes a tap; does nothing if there is none of this name. */
export async function deleteTap(name: string, options: TapOptions = {}): Promise<void> {
  assertName(name);
  const limits = { limitMs: LIMIT_MS, ...options };
  const list = JSON.parse(await run('ip', ['-json', 'link', 'show'], limits)) as {
    ifname: string;
  }[];
  if (!list.some((link) => link.ifname === name)) return;
  await run('ip', ['tuntap', 'del', 'dev', name, 'mode', 'tap'], limits);
}

/** Whoever opens a tap opens this device first, by which nothing is allowed yet. */
async function assertOpenToAll(): Promise<void> {
  const mode = (await stat(TUN).catch(() => undefined))?.mode;
  if (mode === undefined || (mode & 0o006) === 0o006) return;
  throw new TapError(
    'NOT_PERMITTED',
    `QEMU runs as a user of its own, which may not open ${TUN}: \`chmod 0666 ${TUN}\`, ` +
      'as it is on most systems.',
  );
}

function missing(bridge: string): never {
  throw new TapError(
    'BRIDGE_MISSING',
    `This host has no bridge "${bridge}". Make it, or name another one in the domain's NIC.`,
  );
}

function assertName(name: string): void {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(name)) return;
  throw new TapError(
    'NAME_INVALID',
    `"${name}" is no interface name: give 1 to 15 letters, digits, "-", "_" or ".".`,
  );
}

function mayChangeNetwork(): boolean {
  const match = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'));
  return match?.[1] !== undefined && ((BigInt(`0x${match[1]}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}
