import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { rescueFolder } from '../../../src/agent/rescue.js';
import { keepRescue, type RescueKeeper } from '../../../src/agent/rescue-keeper.js';
import { DetachedLauncher } from '../../../src/process/detached-launcher.js';
import { isAlive, signalProcess } from '../../../src/process/proc.js';
import { type LockHolder, readHolder } from '../../../src/process/state-lock.js';
import { memoryLog } from '../../support/fake-agent.js';

const MAIN = fileURLToPath(new URL('../../../src/main.ts', import.meta.url));
const WAIT = { timeout: 15_000, interval: 20 };

let folder: string;
let keepers: RescueKeeper[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drover-keeper-'));
  keepers = [];
});

afterEach(async () => {
  for (const keeper of keepers) await keeper.stop();
  rmSync(folder, { recursive: true, force: true });
});

const directories = () => ({ state: folder, run: join(folder, 'run') });

function keep(
  command: readonly [string, ...string[]] = [process.execPath, '--import', 'tsx', MAIN],
) {
  const log = memoryLog();
  const parts = { directories: directories(), launcher: new DetachedLauncher(), log, command };
  const keeper = keepRescue(parts);
  keepers.push(keeper);
  return { keeper, log };
}

/** The rescue process that watches now, other than a given one. */
async function watcher(other?: LockHolder): Promise<LockHolder> {
  let found: LockHolder | undefined;
  await expect
    .poll(async () => {
      found = await readHolder(rescueFolder(directories().run));
      return found?.alive === true && found.pid !== other?.pid;
    }, WAIT)
    .toBe(true);
  return found as LockHolder;
}

it('starts a process that watches, again when it dies, and ends it with the agent', async () => {
  const { keeper, log } = keep();
  const first = await watcher();
  signalProcess(first, 'SIGKILL');
  const second = await watcher(first);
  expect(log.lines.map(({ message }) => message)).toEqual([
    'started the rescue process',
    'the rescue process has ended',
    'started the rescue process',
  ]);
  await keeper.stop();
  expect(isAlive(second)).toBe(false);
  const written = readFileSync(join(rescueFolder(directories().run), 'rescue.log'), 'utf8');
  const lines = written
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as object);
  expect(lines.at(-1)).toMatchObject({ level: 'info', message: 'watching no longer' });
});

it('takes the place of the one that an agent has left behind', async () => {
  keep();
  const left = await watcher();
  keep();
  const next = await watcher(left);
  expect(isAlive(left)).toBe(false);
  expect(isAlive(next)).toBe(true);
});

it('tries again, less and less often, where it cannot be started', async () => {
  const { log } = keep([join(folder, 'missing')]);
  await expect.poll(() => log.lines.length, WAIT).toBeGreaterThan(1);
  expect(log.lines[0]).toMatchObject({
    level: 'error',
    message: 'the rescue process could not be started',
  });
});
