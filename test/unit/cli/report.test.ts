import { describe, expect, it } from 'vitest';
import { renderReport, reportOf, reportOfFailure } from '../../../src/cli/report.js';
import { PLAIN } from '../../../src/cli/style.js';
import { ReasonedError } from '../../../src/util/reasoned-error.js';
import { REASONS } from '../../../src/util/reasons.js';
import { failed } from '../../support/migrations.js';

const show = (error: unknown) => `\n${renderReport(reportOf(error), PLAIN).join('\n')}\n`;

describe('an error as people read it', () => {
  it('says what was wrong, which side, what to do, and the code', () => {
    const error = new ReasonedError('DISK_NO_SPACE', 'The pool default is full.', {
      side: 'destination',
      facts: { pool: 'default', required_bytes: 1024 },
    });
    expect(show(error)).toMatchInlineSnapshot(`
      "
      error: The pool default is full. [DISK_NO_SPACE]
        where: on the destination
        required: 1 KiB
        what to do: Free space in the pool, or choose another host.
      "
    `);
  });

  it('lists every violation', () => {
    const error = new ReasonedError('SPEC_INVALID', 'The spec is wrong.', {
      violations: [
        { reason: 'SPEC_INVALID', subject: 'memory', message: 'memory must be given' },
        { reason: 'SPEC_INVALID', subject: 'disks[0].id', message: 'disks[0].id must be given' },
      ],
    });
    expect(show(error)).toMatchInlineSnapshot(`
      "
      error: The spec is wrong. [SPEC_INVALID]
        - memory must be given
        - disks[0].id must be given
        what to do: Correct the spec; all violations are listed.
      "
    `);
  });

  it('lists violations instead of stringing them together', () => {
    const messages = ['line 1: a must be given', 'line 2: b has the unknown key `c`'];
    const error = new ReasonedError('CONFIG_INVALID', `x.yaml is wrong: ${messages.join('; ')}.`, {
      violations: messages.map((message) => ({ reason: 'CONFIG_INVALID', subject: '', message })),
    });
    expect(show(error)).toMatchInlineSnapshot(`
      "
      error: x.yaml is wrong: [CONFIG_INVALID]
        - line 1: a must be given
        - line 2: b has the unknown key \`c\`
        what to do: Correct the file as the message says.
      "
    `);
  });

  it('tells the failure of a migration with its phase', () => {
    const { failure } = failed;
    const lines = renderReport(reportOfFailure(failure!), PLAIN);
    expect(`\n${lines.join('\n')}\n`).toMatchInlineSnapshot(`
      "
      error: The pool default has 2 GiB left; 10 GiB are needed. [DISK_NO_SPACE]
        where: on the destination, in the mirror phase
        what to do: Free space in the pool, or choose another host.
      "
    `);
  });

  it('gives a fault without a reason the code INTERNAL', () => {
    expect(reportOf(new TypeError('x is undefined'))).toMatchObject({
      reason: 'INTERNAL',
      message: 'x is undefined',
      hint: REASONS.INTERNAL.hint,
    });
  });

  it('lets no control character of a quoted text reach the terminal', () => {
    const error = new ReasonedError('QEMU_START_FAILED', 'It said "\x1b[2J\x07boo\x1b]0;x\x07".');
    for (const style of [PLAIN, { colors: true, unicode: true }]) {
      const text = renderReport(reportOf(error), style).join('\n');
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are looked for.
      expect(text.replaceAll(/\x1b\[\d+m/g, '')).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
      expect(text).toContain('boo');
    }
  });
});
