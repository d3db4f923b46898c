import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { renderErrorsDoc } from '../../scripts/write-errors-doc.js';
import { asReasoned, MigrationError, toFailure } from '../../src/migration/errors.js';

describe('the reasons', () => {
  it('are listed in docs/errors.md exactly as they are in the table', () => {
    const doc = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
    expect(doc).toBe(renderErrorsDoc());
  });

  it('travel into a failure with side, phase, hint and facts', () => {
    const error = new MigrationError('DISK_NO_SPACE', 'The pool fast has 1 GiB free.', {
      side: 'destination',
      facts: { required_bytes: 2, available_bytes: 1 },
    });
    expect(toFailure(error, 'source', 'prepare')).toMatchObject({
      reason: 'DISK_NO_SPACE',
      side: 'destination',
      phase: 'prepare',
      retryable: false,
      metadata: { required_bytes: '2', available_bytes: '1' },
    });
  });

  it('call anything without a reason a fault in Drover, and keep its text', () => {
    const reasoned = asReasoned(new TypeError('x is not a function'));
    expect(reasoned.reason).toBe('INTERNAL');
    expect(reasoned.message).toBe('x is not a function');
  });
});
