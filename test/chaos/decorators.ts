import { chownSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DataPlace } from '../../src/domain/launch-spec.js';
import type { PeerDirectory, PeerHandler } from '../../src/migration/peer.js';
import type { Launcher, LaunchRequest } from '../../src/process/launcher.js';
import { QmpClient } from '../../src/qmp/client.js';
import { RpcError } from '../../src/rpc/errors.js';
import type { Effects } from './effects.js';
import type { Action, DiskFault } from './protocol.js';

const GUEST_NICENESS = 10;

type AnyCall = (...args: unknown[]) => Promise<unknown>;

/**
 * Every call to another agent is an effect before it is made and after it has been answered. Disks
 * and RAM go by ports of the driver, so that each way can be cut by itself.
 */
export function chaoticPeers(directory: PeerDirectory, effects: Effects): PeerDirectory {
  return {
    calls(host) {
      const calls = directory.calls(host);
      return wrapped(calls, (name, args) => {
        const make = () => method(calls, name)(...args);
        return call(host, name, args, make, effects);
      });
    },
  };
}

async function call(
  host: string,
  name: string,
  args: readonly unknown[],
  make: () => Promise<unknown>,
  effects: Effects,
): Promise<unknown> {
  const what = `call ${kebab(name)}`;
  const action = effects.at(`${what} before`, described(args));
  const answer = await suffer(action, make, what).catch((error: unknown) => {
    effects.at(`${what} failed`, { message: String(error) });
    throw error;
  });
  await suffer(effects.at(`${what} after`, described(answer)), async () => undefined, what);
  const traffic = name === 'exportDisks' ? 'nbd' : name === 'acceptRam' ? 'ram' : undefined;
  if (!traffic) return answer;
  const place = answer as DataPlace;
  return { ...place, port: place.port === 0 ? 0 : effects.route(host, place.port, traffic) };
}

async function suffer<T>(
  action: Action | undefined,
  make: () => Promise<T>,
  what: string,
): Promise<T> {
  switch (action?.type) {
    case 'lose':
      throw lost(what);
    case 'late':
      void delay(action.delayMs)
        .then(make)
        .catch(() => undefined);
      throw lost(what);
    case 'duplicate': {
      const first = make();
      make().catch(() => undefined);
      return await first;
    }
    case 'delay':
      await delay(action.delayMs);
      return await make();
    default:
      return await make();
  }
}

/** Every call of another agent is an effect before it is served and after. */
export function chaoticHandler(handler: PeerHandler, effects: Effects): PeerHandler {
  return wrapped(handler, async (name, args) => {
    const what = `serve ${kebab(name)}`;
    effects.at(`${what} before`, described(args));
    const answer = await method(
      handler,
      name,
    )(...args).catch((error: unknown) => {
      effects.at(`${what} failed`, { message: String(error) });
      throw error;
    });
    effects.at(`${what} after`, described(answer));
    return answer;
  });
}

/**
 * Lets every QEMU send RAM no faster than the driver wants. The limit that a caller may set is for
 * disks, too, which must not take as long.
 */
export function slowRam(effects: Effects): void {
  const client = QmpClient.prototype as unknown as { execute: AnyCall };
  const { execute } = client;
  client.execute = async function (this: QmpClient, command, args, ...rest) {
    const limited = (args ?? {}) as { 'max-bandwidth'?: number };
    const wanted = limited['max-bandwidth'];
    const most = effects.ramBandwidth;
    if (wanted === undefined || most === 0) return await execute.call(this, command, args, ...rest);
    const slow = { ...limited, 'max-bandwidth': Math.min(wanted, most) };
    return await execute.call(this, command, slow, ...rest);
  };
}

/**
 * Gives an incoming QEMU bad or slow disks, where the driver wants them, and every QEMU a console
 * of its own in `consoles`, which stays when all else of the QEMU is removed.
 */
export function chaoticLauncher(launcher: Launcher, effects: Effects, consoles: string): Launcher {
  let launched = 0;
  return {
    async launch(request, options) {
      const name = `${Date.now()}-${process.pid}-${++launched}.log`;
      const argv = request.argv.map((argument, index) =>
        request.argv[index - 1] === '-chardev'
          ? argument.replace(/path=.*\/serial\.log/, `path=${join(consoles, name)}`)
          : argument,
      );
      if (request.user && argv.some((argument) => argument.includes(name))) {
        writeFileSync(join(consoles, name), '');
        chownSync(join(consoles, name), request.user.uid, request.user.gid);
      }
      const faulty = withDiskFault({ ...request, argv }, effects.disks);
      const qemu = await launcher.launch(faulty, options);
      // The guest never rests, and several of them would leave no time to anybody else.
      if (request.argv.includes('-blockdev')) rest(qemu.record.pid);
      return qemu;
    },
    adopt: (record) => launcher.adopt(record),
  };
}

function rest(pid: number): void {
  try {
    setPriority(pid, GUEST_NICENESS);
  } catch {
    // It has ended already; whoever waits for it will say why.
  }
}

function withDiskFault(request: LaunchRequest, fault: DiskFault | undefined): LaunchRequest {
  if (fault === undefined || !request.argv.includes('-incoming')) return request;
  const argv: string[] = [];
  if (fault.type === 'slow') {
    const limits = { 'iops-total': fault.operationsPerSecond };
    const group = { 'qom-type': 'throttle-group', id: 'chaos', limits };
    argv.push('-object', JSON.stringify(group));
  }
  request.argv.forEach((argument, index) => {
    if (request.argv[index - 1] !== '-blockdev') {
      argv.push(argument);
      return;
    }
    const node = JSON.parse(argument) as Record<string, unknown>;
    const file = node['file'];
    if (typeof file !== 'string') {
      argv.push(argument);
      return;
    }
    const filter = `chaos-${file}`;
    argv.push(JSON.stringify({ ...filterOf(fault, file), 'node-name': filter }));
    argv.push('-blockdev', JSON.stringify({ ...node, file: filter }));
  });
  return { ...request, argv };
}

function filterOf(fault: DiskFault, file: string): object {
  switch (fault.type) {
    case 'slow':
      return { driver: 'throttle', 'throttle-group': 'chaos', file };
    case 'flush-errors': {
      const rule = { event: 'none', iotype: 'flush', errno: fault.errno, once: false };
      return { driver: 'blkdebug', image: file, 'inject-error': [rule] };
    }
    case 'errors': {
      // Every write is one step from state to state; in the last state writes fail.
      const last = fault.fromWrite;
      const steps = Array.from({ length: last - 1 }, (_, index) => ({
        event: 'write_aio',
        state: index + 1,
        new_state: index + 2,
      }));
      const rule = { event: 'write_aio', iotype: 'write', errno: fault.errno, once: false };
      const error = last > 1 ? { ...rule, state: last } : rule;
      const states = last > 1 ? { 'set-state': steps } : {};
      return { driver: 'blkdebug', image: file, ...states, 'inject-error': [error] };
    }
  }
}

/** The same object with every method's calls led through `around`. */
function wrapped<T extends object>(
  object: T,
  around: (name: string, args: unknown[]) => Promise<unknown>,
): T {
  return new Proxy(object, {
    get(_, name) {
      const value: unknown = Reflect.get(object, name, object);
      if (typeof value !== 'function' || typeof name !== 'string') return value;
      return (...args: unknown[]) => around(name, args);
    },
  });
}

function method(object: object, name: string): AnyCall {
  const value = Reflect.get(object, name, object) as AnyCall;
  return async (...args) => await value.apply(object, args);
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function lost(what: string): RpcError {
  return new RpcError('PEER_UNREACHABLE', `The driver has lost this: ${what}.`);
}

const LEFT_OUT = new Set(['psk', 'ticket', 'launchSpec', 'spec', 'signal']);

/** What a reader of the trace wants to know of arguments and answers: records, outcomes, ids. */
function described(value: unknown, depth = 0): unknown {
  if (typeof value !== 'object' || value === null) return depth === 0 ? undefined : value;
  if (Array.isArray(value)) return value.map((item) => described(item, depth + 1));
  // Streams and the like are not for reading.
  if (Object.getPrototypeOf(value) !== Object.prototype) return undefined;
  const entries = Object.entries(value)
    .filter(([key]) => !LEFT_OUT.has(key))
    .map(([key, inner]) => [key, described(inner, depth + 1)]);
  return Object.fromEntries(entries);
}
