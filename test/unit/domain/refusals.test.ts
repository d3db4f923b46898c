import { describe, expect, it } from 'vitest';
import { DomainError } from '../../../src/domain/errors.js';
import { Refusals } from '../../../src/domain/refusals.js';
import { REASONS } from '../../../src/util/reasons.js';

const closed = () => {
  throw new DomainError('MEDIA_MISSING', 'The kernel is closed.', { hint: 'Run `chmod`.' });
};

describe('what to do about several refusals', () => {
  it('is what the first one says, without what its reason says of all', async () => {
    const refusals = new Refusals();
    await refusals.check('kernel', closed);
    refusals.add('NETWORK_NOT_OFFERED', 'nics[0]', 'there is no such network');
    expect(refusals.error('no').hint).toBe('Run `chmod`.');
  });

  it('is not lost where it is not the first one, and is said once', async () => {
    const refusals = new Refusals();
    refusals.add('NETWORK_NOT_OFFERED', 'nics[0]', 'there is no such network');
    await refusals.check('kernel', closed);
    await refusals.check('disks[0]', closed);
    expect(refusals.error('no').hint).toBe(`${REASONS.NETWORK_NOT_OFFERED.hint} Run \`chmod\`.`);
  });

  it('is left to the reason where no check has said it', async () => {
    const refusals = new Refusals();
    refusals.add('NETWORK_NOT_OFFERED', 'nics[0]', 'there is no such network');
    expect(refusals.error('no').hint).toBeUndefined();
  });
});
