import { describe, expect, it } from 'vitest';
import { PLAIN } from '../../../src/cli/style.js';
import { renderSummary } from '../../../src/cli/summary.js';
import { migrationWith, succeeded } from '../../support/migrations.js';

describe('the summary of a migration', () => {
  it('gives times, the downtime by parts, bytes and storage within 80 columns', () => {
    const lines = renderSummary(succeeded, 80, PLAIN);
    expect(`\n${lines.join('\n')}\n`).toMatchInlineSnapshot(`
      "
      ok: web1 runs on host-b.

        total time        30.2 s
        downtime         46.1 ms  31 ms by QEMU's own count
          settle          3.1 ms  mirrors settled
          ram            12.0 ms  last RAM and device state sent
          load           20.3 ms  guest loaded on the destination
          commit          0.4 ms  given up by the source
          resume         10.3 ms  taken and resumed by the destination
          of it safety    2.1 ms  durable records, round trip
        transferred     13.5 GiB  RAM in 3 passes

        DISK    SIZE    SENT  TOOK ON SOURCE  TAKES ON DESTINATION
        root  10 GiB  10 GiB         6.3 GiB               6.3 GiB
        data   1 GiB   1 GiB          12 MiB                12 MiB
      "
    `);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
  });

  it('leaves out what the agent did not report', () => {
    const bare = migrationWith({ state: 'STATE_SUCCEEDED' });
    expect(renderSummary(bare, 80, PLAIN)).toEqual(['ok: web1 runs on host-b.']);
  });
});
