import { describe, expect, it } from 'vitest';
import { render } from '../../../src/cli/progress.js';
import { PLAIN, type Style, widthOf } from '../../../src/cli/style.js';
import type { Migration } from '../../../src/gen/drover/v1/migration.js';
import {
  after,
  cancelled,
  failed,
  inDoubt,
  migrationWith,
  mirroring,
  precopying,
  preparing,
  succeeded,
} from '../../support/migrations.js';

const UNICODE: Style = { colors: false, unicode: true };
const COLORS: Style = { colors: true, unicode: true };
const now = after(12_400);
const draw = (migration: Migration, width = 80, style: Style = UNICODE) =>
  `\n${render(migration, { width, style, now }).join('\n')}\n`;

describe('the progress of a migration', () => {
  it('shows what moves where, and the phases, before anything is copied', () => {
    expect(draw(preparing)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, guest runs on host-a                               12.4 s
      ▸ prepare  · mirror  · precopy  · switchover  · handover  · cleanup
      "
    `);
  });

  it('shows a row for each disk with bar, bytes, rate and time left', () => {
    expect(draw(mirroring)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, guest runs on host-a                               12.4 s
      ✔ prepare  ▸ mirror  · precopy  · switchover  · handover  · cleanup
      disk root ██████████░░░░░░  64 %   6.4 GiB of 10 GiB    412 MiB/s      9 s left
      disk data ████████████████ ready      1 GiB of 1 GiB
      "
    `);
  });

  it('shows RAM with its pass, dirty rate and expected downtime', () => {
    expect(draw(precopying)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, guest runs on host-a                               12.4 s
      ✔ prepare  ✔ mirror  ▸ precopy  · switchover  · handover  · cleanup
      disk root  ███████████████ ready    10 GiB of 10 GiB
      disk data  ███████████████ ready      1 GiB of 1 GiB
      RAM pass 2 ████████████░░░  85 %        2.5 GiB sent    980 MiB/s  300 MiB left
      guest dirties 34 MiB/s, expected downtime 120 ms
      "
    `);
  });

  it('shows where a failed one stopped, and no rates any more', () => {
    expect(draw(failed)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, guest runs on host-a                                  8 s
      ✔ prepare  ✘ mirror  · precopy  · switchover  · handover  · cleanup
      disk root ██████████░░░░░░  64 %   6.4 GiB of 10 GiB
      disk data ████████████████ ready      1 GiB of 1 GiB
      "
    `);
    expect(draw(cancelled)).toContain('✘ mirror');
  });

  it('says why one is in doubt', () => {
    expect(draw(inDoubt)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, not known where the guest is                       12.4 s
      ✔ prepare  ✔ mirror  ✔ precopy  ✔ switchover  ✘ handover  · cleanup
      disk root  ███████████████ ready    10 GiB of 10 GiB
      disk data  ███████████████ ready      1 GiB of 1 GiB
      RAM pass 2 ████████████░░░  85 %        2.5 GiB sent    980 MiB/s  300 MiB left
      guest dirties 34 MiB/s, expected downtime 120 ms
      in doubt: The agent of host-b has not answered the commit.
      "
    `);
  });

  it('shows all phases done at the end', () => {
    expect(draw(succeeded).match(/✔/g)).toHaveLength(6);
  });

  it('uses ASCII only where the terminal knows no more', () => {
    const text = draw(precopying, 80, PLAIN);
    expect(text).toMatchInlineSnapshot(`
      "
      web1: host-a -> host-b, guest runs on host-a                              12.4 s
      x prepare  x mirror  > precopy  . switchover  . handover  . cleanup
      disk root  ############### ready    10 GiB of 10 GiB
      disk data  ############### ready      1 GiB of 1 GiB
      RAM pass 2 ############...  85 %        2.5 GiB sent    980 MiB/s  300 MiB left
      guest dirties 34 MiB/s, expected downtime 120 ms
      "
    `);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the whole range of ASCII.
    expect(text).toMatch(/^[\x00-\x7f]*$/);
  });

  it('drops figures, then bars, as the terminal gets narrower', () => {
    expect(draw(precopying, 60)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b, guest runs on host-a           12.4 s
      phase 3 of 6: precopy
      disk root  █████████ ready    10 GiB of 10 GiB
      disk data  █████████ ready      1 GiB of 1 GiB
      RAM pass 2 ███████░░  85 %        2.5 GiB sent    980 MiB/s
      guest dirties 34 MiB/s, expected downtime 120 ms
      "
    `);
    expect(draw(precopying, 40)).toMatchInlineSnapshot(`
      "
      web1: host-a → host-b             12.4 s
      phase 3 of 6: precopy
      disk root  ██████████████████████ ready
      disk data  ██████████████████████ ready
      RAM pass 2 ██████████████████░░░░  85 %
      guest dirties 34 MiB/s, expected downti…
      "
    `);
    expect(draw(precopying, 24)).toMatchInlineSnapshot(`
      "
      web1: host-a → …  12.4 s
      phase 3 of 6: precopy
      disk root  ██████ ready
      disk data  ██████ ready
      RAM pass 2 █████░  85 %
      guest dirties 34 MiB/s,…
      "
    `);
  });

  it('never draws a line wider than the terminal', () => {
    const longNames = migrationWith({
      ...precopying,
      domainName: `d${'x'.repeat(62)}`,
      sourceHost: 's'.repeat(63),
      destinationHost: 'd'.repeat(63),
      disks: precopying.disks.map((disk) => ({ ...disk, diskId: 'a'.repeat(20) })),
    });
    const all = [preparing, mirroring, precopying, failed, inDoubt, succeeded, longNames];
    for (const migration of all) {
      for (let width = 20; width <= 200; width += 1) {
        for (const line of render(migration, { width, style: COLORS, now })) {
          expect(widthOf(line), `${migration.phase} at ${width}: ${line}`).toBeLessThanOrEqual(
            width,
          );
        }
      }
    }
  });

  it('changes nothing but colours when colours are allowed', () => {
    const colored = render(precopying, { width: 80, style: COLORS, now });
    const plain = render(precopying, { width: 80, style: UNICODE, now });
    expect(colored).not.toEqual(plain);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the colours begin with ESC.
    expect(colored.map((line) => line.replaceAll(/\x1b\[\d+m/g, ''))).toEqual(plain);
  });

  it('shows the busy disks first when there is no room for all', () => {
    const disks = Array.from({ length: 30 }, (_, i) => ({
      diskId: `d${i}`,
      totalBytes: 100,
      transferredBytes: i === 29 ? 5 : 100,
      ready: i !== 29,
    }));
    const lines = render(migrationWith({ phase: 'PHASE_MIRROR', disks }), {
      width: 80,
      style: UNICODE,
      now,
      maxDisks: 3,
    });
    expect(lines.filter((line) => line.startsWith('disk'))).toHaveLength(3);
    expect(lines.join('\n')).toContain('disk d29');
    expect(lines.at(-1)).toBe('and 27 more disks');
  });
});
