import { expect } from 'vitest';
import { QmpClient } from '../../../src/qmp/client.js';
import { QmpTimeoutError } from '../../../src/qmp/errors.js';
import { mirrorDisk } from '../qmp-pair.js';
import type { Behaviour } from './behaviour.js';

/** The two monitors and the end of the process. */
export const MONITOR_CONTRACT: readonly Behaviour[] = [
  {
    name: 'a monitor serves one client; the rescue monitor works beside it and hears events',
    check: async ({ source, signal }) => {
      const path = source.qemu.record.directory;
      await expect(
        QmpClient.connect(`${path}/agent.sock`, { connectLimitMs: 200 }),
      ).rejects.toBeInstanceOf(QmpTimeoutError);
      await using rescue = await QmpClient.connect(source.qemu.rescueMonitorPath);
      using stopped = rescue.listen('STOP');
      await source.qmp.execute('stop');
      await stopped.next({ signal });
      expect((await rescue.execute('query-uuid')).UUID).toBe(source.qemu.record.uuid);
    },
  },
  {
    name: 'out-of-band commands are answered, and list what can be broken by force',
    check: async (pair) => {
      await mirrorDisk(pair);
      expect(await pair.source.qmp.executeOob('query-yank')).toContainEqual({
        type: 'block-node',
        'node-name': 'target0',
      });
    },
  },
  {
    name: 'quit says SHUTDOWN, answers, and the process ends with 0',
    check: async ({ source }) => {
      expect(await source.qemu.quit()).toEqual({ code: 0, signal: undefined });
      expect(source.events).toEqual(['SHUTDOWN host-qmp-quit']);
    },
  },
];
