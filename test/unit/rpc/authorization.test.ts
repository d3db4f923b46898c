import { describe, expect, it } from 'vitest';
import { allowedRoles, authorize } from '../../../src/rpc/authorization.js';
import { ROLES } from '../../../src/rpc/identity.js';

/* What each role may call is in test/flow/rpc-roles.test.ts, with a real server. */

describe('who may call what', () => {
  it('is nobody where a method has no row, and the error says so', () => {
    for (const role of ROLES) {
      const caller = { role, name: 'alice' };
      expect(() => authorize('/drover.v1.DomainService/ExplodeDomain', caller)).toThrow(
        expect.objectContaining({
          reason: 'PERMISSION_DENIED',
          message: expect.stringMatching(/for nobody/),
        }),
      );
    }
    expect(allowedRoles('/drover.v1.DomainService/')).toEqual([]);
    expect(allowedRoles('/drover.v1.DomainService/createdomain')).toEqual([]);
  });

  it('is nobody of a role that is not known', () => {
    const caller = { role: 'root' as 'host', name: 'alice' };
    expect(() => authorize('/drover.v1.DomainService/WhoRuns', caller)).toThrow(
      expect.objectContaining({ reason: 'PERMISSION_DENIED' }),
    );
  });

  it('is told in the error: who called what, and for whom it is', () => {
    expect(() =>
      authorize('/drover.v1.PeerService/Commit', { role: 'observer', name: 'alice' }),
    ).toThrow(
      expect.objectContaining({
        reason: 'PERMISSION_DENIED',
        message: expect.stringMatching(/observer alice .*PeerService\/Commit.* host/),
      }),
    );
  });
});
