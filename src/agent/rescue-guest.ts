import { setTimeout as delay } from 'node:timers/promises';
import { isHeld } from '../domain/resume-source.js';
import { QmpClient } from '../qmp/client.js';
import { QmpClosedError, QmpError, QmpTimeoutError } from '../qmp/errors.js';
import type { RunState } from '../qmp/types.gen.js';

/** Most time for one answer of QEMU, in milliseconds. */
const ANSWER_LIMIT_MS = 1_000;
/** After this time the connections that QEMU may be waiting for are cut. */
const PATIENCE_MS = 1_500;
/** After this time a guest is given up until the next try. */
const LIMIT_MS = 5_000;
const PAUSE_MS = 20;
/** The nodes that mirrors write to: their connections may be cut, others are the guest's. */
const TARGET = /^target-/;

/** A guest could not be helped now. */
export class StalledGuestError extends Error {
  override readonly name = 'StalledGuestError';
}

/**
 * What QEMU says of the guest on its rescue monitor. `silent`: it lives and does not answer;
 * `gone`: nobody listens; `foreign`: another domain's QEMU answers.
 */
export type Sight = RunState | 'silent' | 'gone' | 'foreign';

/** Asks QEMU what its guest does; changes nothing. Never rejects. */
export async function sightGuest(monitorPath: string, uuid: string): Promise<Sight> {
  const qmp = await connect(monitorPath).catch(sightOfError);
  if (typeof qmp === 'string') return qmp;
  try {
    return await readStatus(qmp, uuid);
  } catch (error) {
    return sightOfError(error);
  } finally {
    await qmp.close();
  }
}

/** What may be done to a guest, and what is written down before. */
export interface GuestRescue {
  readonly monitorPath: string;
  readonly uuid: string;
  /**
   * Writes down that the guest stays here. Called when a migration holds it, before anything is
   * changed; false where that is not for the source alone to say, so that nothing is changed.
   *
   * @throws what kept it from being written
   */
  decide(status: 'finish-migrate' | 'postmigrate'): Promise<boolean>;
}

/**
 * Lets a guest run again that a migration holds stopped, and answers what it does then. Any other
 * guest is left as it is. A migration that has not completed is cancelled even where that could not
 * be written: QEMU resumes the guest by itself then, and the source may run it either way.
 *
 * @throws StalledGuestError, QmpClosedError, or what kept the decision from being written
 */
export async function freeGuest(rescue: GuestRescue): Promise<Sight> {
  await using qmp = await connect(rescue.monitorPath);
  const status = await readStatus(qmp, rescue.uuid);
  if (status !== 'finish-migrate' && status !== 'postmigrate') return status;
  let unwritten: unknown;
  const decided = await rescue.decide(status).catch((error: unknown) => {
    unwritten = error ?? new Error('It could not be written.');
    return status === 'finish-migrate';
  });
  if (!decided) {
    if (unwritten) throw unwritten;
    return status;
  }
  const end = await endMigration(qmp, { mayContinue: unwritten === undefined });
  if (unwritten && isHeld(end)) throw unwritten;
  return end;
}

async function endMigration(
  qmp: QmpClient,
  { mayContinue }: { readonly mayContinue: boolean },
): Promise<RunState> {
  const startedMs = performance.now();
  let cut = false;
  for (;;) {
    const passedMs = performance.now() - startedMs;
    if (passedMs > LIMIT_MS) {
      throw new StalledGuestError(`QEMU has not let the guest run within ${LIMIT_MS} ms.`);
    }
    if (passedMs > PATIENCE_MS && !cut) {
      cut = true;
      await patiently(() => cutConnections(qmp));
    }
    const status = await patiently(async () => {
      const now = await ask(qmp, 'query-status');
      if (now.status === 'finish-migrate') await ask(qmp, 'migrate_cancel');
      else if (now.status === 'postmigrate' && mayContinue) await ask(qmp, 'cont');
      return now.status;
    });
    if (status && !isHeld(status)) return status;
    if (status === 'postmigrate' && !mayContinue) return status;
    await delay(PAUSE_MS);
  }
}

function ask<C extends 'query-status' | 'migrate_cancel' | 'cont'>(qmp: QmpClient, command: C) {
  return qmp.execute(command, {}, { limitMs: ANSWER_LIMIT_MS });
}

/** Out of band, because QEMU's main loop may be waiting for just these connections. */
async function cutConnections(qmp: QmpClient): Promise<void> {
  const limit = { limitMs: ANSWER_LIMIT_MS };
  const known = await qmp.executeOob('query-yank', {}, limit);
  const instances = known.filter(
    (one) =>
      one.type === 'migration' || (one.type === 'block-node' && TARGET.test(one['node-name'])),
  );
  if (instances.length > 0) await qmp.executeOob('yank', { instances }, limit);
}

/** A step that QEMU refuses, or does not answer in time, is tried again until the limit. */
async function patiently<T>(step: () => Promise<T>): Promise<T | undefined> {
  try {
    return await step();
  } catch (error) {
    if (error instanceof QmpTimeoutError || error instanceof QmpError) return undefined;
    throw error;
  }
}

async function readStatus(qmp: QmpClient, uuid: string): Promise<RunState | 'foreign'> {
  const limit = { limitMs: ANSWER_LIMIT_MS };
  const { UUID: found } = await qmp.execute('query-uuid', {}, limit);
  if (found !== uuid) return 'foreign';
  return (await qmp.execute('query-status', {}, limit)).status;
}

function connect(path: string): Promise<QmpClient> {
  return QmpClient.connect(path, { connectLimitMs: ANSWER_LIMIT_MS });
}

function sightOfError(error: unknown): 'silent' | 'gone' {
  return error instanceof QmpClosedError ? 'gone' : 'silent';
}
