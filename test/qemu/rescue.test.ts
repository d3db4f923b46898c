import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { rescueFolder } from '../../src/agent/rescue.js';
import { isAlive, readStartTime } from '../../src/process/proc.js';
import { readHolder } from '../../src/process/state-lock.js';
import { readLog } from '../../src/util/append-log.js';
import { type AgentHost, AgentHosts, rescueMonitor } from '../support/agent-hosts.js';
import { migrate, watchToEnd } from '../support/fleet.js';

/** From the agent's end until the guest runs: two seconds of patience, and some to act. */
const LIMIT_MS = 5_000;

let hosts: AgentHosts;
afterEach(() => hosts[Symbol.asyncDispose]());

/** Waits until the rescue process of a host watches. */
async function rescueOf({ run }: AgentHost) {
  await expect
    .poll(async () => (await readHolder(rescueFolder(run)))?.alive, { timeout: 20_000 })
    .toBe(true);
  return await readHolder(rescueFolder(run));
}

/** What the journal of the source says, one record after the other. */
async function records({ state }: AgentHost, uuid: string) {
  const folder = join(state, 'journal', uuid);
  const [name = ''] = readdirSync(folder).filter((file) => file.endsWith('.source.log'));
  return (await readLog(join(folder, name))).records.slice(1);
}

/** Does something to the agent of the source, and measures until its guest runs again. */
async function guestRunsAfter(uuid: string, act: () => void): Promise<number> {
  const qmp = await rescueMonitor(hosts.source, uuid);
  const { status } = await qmp.execute('query-status');
  // A monitor serves one client: the rescue process needs it.
  await qmp.close();
  expect(['finish-migrate', 'postmigrate']).toContain(status);
  const startedMs = performance.now();
  act();
  for (;;) {
    await using look = await rescueMonitor(hosts.source, uuid);
    const now = await look.execute('query-status');
    const tookMs = performance.now() - startedMs;
    if (now.status === 'running' || tookMs > 3 * LIMIT_MS) return tookMs;
    await look.close();
    await delay(50);
  }
}

describe('when the agent of the source dies and nobody starts it again, the guest', () => {
  it.each([
    ['before the switchover is written down', 'before SWITCHING', ['DST_PREPARED', 'MIRRORING']],
    ['in the switchover', 'after SWITCHING', ['SWITCHING']],
    ['when all RAM has gone over', 'before COMMITTED', ['SWITCHING']],
  ])('runs again within five seconds, %s', async (_, hold, written) => {
    hosts = await AgentHosts.start(hold);
    await rescueOf(hosts.source);
    const { uuid } = await hosts.moveUntilHeld();
    const tookMs = await guestRunsAfter(uuid, () => hosts.source.agent.kill('SIGKILL'));
    expect(tookMs).toBeLessThan(LIMIT_MS);
    const journal = await records(hosts.source, uuid);
    expect(journal.map(({ record }) => record)).toEqual(expect.arrayContaining(written));
    expect(journal.at(-1)).toMatchObject({ record: 'ABORTED', by: 'rescue' });
  });

  it('runs again within five seconds where the agent was stopped, which it does not survive', async () => {
    hosts = await AgentHosts.start('after SWITCHING');
    await rescueOf(hosts.source);
    const { uuid } = await hosts.moveUntilHeld();
    const tookMs = await guestRunsAfter(uuid, () => hosts.source.agent.kill('SIGSTOP'));
    expect(tookMs).toBeLessThan(LIMIT_MS);
    expect(hosts.source.agent.signalCode).toBe('SIGKILL');
  });

  it('can be moved when the agent is back, and the one that was undone has failed', async () => {
    hosts = await AgentHosts.start('before COMMITTED');
    await rescueOf(hosts.source);
    const { uuid, migrationId } = await hosts.moveUntilHeld();
    await guestRunsAfter(uuid, () => hosts.source.agent.kill('SIGKILL'));
    await hosts.restartSource();
    const undone = await watchToEnd(hosts.source, migrationId);
    expect(undone).toMatchObject({ state: 'STATE_FAILED', runningOn: 'RUNNING_ON_SOURCE' });
    expect(undone.failure?.reason).toBe('AGENT_RESTARTED');
    const expected = async () =>
      (await hosts.destination.client.domains.listDomains({})).domains.map(({ state }) => state);
    await expect.poll(expected, { timeout: 90_000 }).toEqual([]);
    const moved = await migrate(hosts.source, uuid, 'beta');
    expect(moved.failure).toBeUndefined();
    expect(moved.state).toBe('STATE_SUCCEEDED');
  });

  it('stays stopped once it has been given up, for only the destination may say more', async () => {
    hosts = await AgentHosts.start('after COMMITTED');
    const rescue = await rescueOf(hosts.source);
    const { uuid } = await hosts.moveUntilHeld();
    hosts.destination.agent.kill('SIGKILL');
    hosts.source.agent.kill('SIGKILL');
    await delay(10_000);
    await using qmp = await rescueMonitor(hosts.source, uuid);
    expect(await qmp.execute('query-status')).toMatchObject({ status: 'postmigrate' });
    expect((await records(hosts.source, uuid)).at(-1)).toMatchObject({ record: 'COMMITTED' });
    const log = readFileSync(join(rescueFolder(hosts.source.run), 'rescue.log'), 'utf8');
    expect(log).not.toMatch(/"level":"(warn|error)"/);
    expect(rescue && isAlive(rescue)).toBe(true);
  });
});

it('an agent that ends in order takes its rescue process with it', async () => {
  hosts = await AgentHosts.start('never');
  const rescue = await rescueOf(hosts.source);
  const { agent } = hosts.source;
  expect(rescue?.pid).not.toBe(agent.pid);
  agent.kill('SIGTERM');
  await expect.poll(() => readStartTime(agent.pid ?? 0), { timeout: 10_000 }).toBeUndefined();
  expect(rescue && isAlive(rescue)).toBe(false);
});
