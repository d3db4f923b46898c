import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import type { LaunchSpec } from '../../src/domain/launch-spec.js';
import { NO_RECORD, type PeerCalls, type PeerHeader } from '../../src/migration/peer.js';
import type { AgentClient } from '../../src/rpc/client.js';

/*
 * What the suites of hostile callers and hostile peers share: they count what they try, and an
 * honest caller asks all the while whether the agent still answers.
 */

/**
 * How long an honest caller waits, in milliseconds, mostly and at most; the attacker takes the time
 * of the same process.
 */
const PATIENCE_MS = { mostly: 1_000, atMost: 5_000 } as const;
/** It leaves some of the time to the attack, which is in the same process. */
const PACE_MS = 20;

/** How many forbidden calls were made, and how many of them got something. */
export class Tally {
  readonly #name: string;
  readonly accepted: string[] = [];
  calls = 0;

  constructor(name: string) {
    this.#name = name;
  }

  /** Counts a call that must be refused; `reason` is the reason that it was refused with. */
  count(what: string, reason: string | undefined): void {
    this.calls += 1;
    if (reason === undefined) this.accepted.push(what);
  }

  /**
   * Makes a call that must fail and answers with why it did.
   *
   * @returns the reason of the failure; `ACCEPTED` where there was none
   */
  async refused(what: string, call: () => Promise<unknown>): Promise<string> {
    const reason = await call().then(
      () => undefined,
      (error: { reason?: string; message?: string }) => error.reason ?? `${error.message}`,
    );
    this.count(what, reason);
    return reason ?? 'ACCEPTED';
  }

  /** Prints both numbers, and fails where anything was accepted. */
  finish(): void {
    console.log(`${this.#name}: ${this.calls} forbidden calls, ${this.accepted.length} accepted`);
    expect(this.accepted).toEqual([]);
    expect(this.calls).toBeGreaterThan(0);
  }
}

/** An honest caller that asks one question after the other while something else is done. */
export async function whileAnswering<T>(client: AgentClient, attack: () => Promise<T>): Promise<T> {
  let over = false;
  const tookMs: number[] = [];
  const ask = async () => {
    do {
      const beganMs = performance.now();
      await client.hosts.getHost({});
      tookMs.push(performance.now() - beganMs);
      await delay(PACE_MS);
    } while (!over);
  };
  const asking = ask();
  // It is awaited below; until then nobody hears of its failure.
  asking.catch(() => undefined);
  try {
    return await attack();
  } finally {
    over = true;
    await asking;
    const sorted = tookMs.sort((one, other) => one - other);
    const usual = sorted[Math.floor(sorted.length / 2)] ?? 0;
    expect(usual, 'milliseconds until an answer').toBeLessThan(PATIENCE_MS.mostly);
    expect(sorted.at(-1), 'milliseconds at most').toBeLessThan(PATIENCE_MS.atMost);
  }
}

/** Everything that one host may say to another of a migration, whatever its header claims. */
export function attempts(
  calls: PeerCalls,
  header: PeerHeader,
  launchSpec: LaunchSpec,
): [string, () => Promise<unknown>][] {
  const wait = { signal: new AbortController().signal };
  return Object.entries({
    prepare: () => calls.prepare(header, launchSpec, wait),
    probeData: () => calls.probeData(header, wait),
    exportDisks: () => calls.exportDisks(header, 'direct', wait),
    acceptRam: () => calls.acceptRam(header, 'direct', wait),
    shareIngress: () => calls.shareIngress(header, { weight: 100, wantRamTurn: true }, wait),
    awaitLoaded: () => calls.awaitLoaded(header, wait),
    commit: () => calls.commit(header, { paused: false }, wait),
    revoke: () => calls.revoke(header, wait),
    abort: () => calls.abort(header, wait),
    sourceGone: () => calls.sourceGone(header, wait),
    queryMigration: () => calls.queryMigration(header, NO_RECORD, wait),
  });
}

/** The handler with some of its methods replaced. */
export function wrapped<Handler extends object>(
  handler: Handler,
  changes: Partial<Handler>,
): Handler {
  return new Proxy(handler, {
    get(_, name) {
      const value: unknown = Reflect.get(changes, name) ?? Reflect.get(handler, name, handler);
      return typeof value === 'function' ? value.bind(handler) : value;
    },
  });
}

/** Megabytes of heap and of buffers in use, after the rubbish has been taken out where it can be. */
export function memoryMib(): number {
  (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return (heapUsed + external + arrayBuffers) / 1024 ** 2;
}
