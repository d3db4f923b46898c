import { describe, expect, it } from 'vitest';
import { EXIT, exitOfReason, exitOfState } from '../../../src/cli/exit-codes.js';
import { toJson } from '../../../src/cli/json.js';
import { isUuid } from '../../../src/cli/options.js';
import { failed } from '../../support/migrations.js';

describe('exit codes', () => {
  it('are these numbers for ever', () => {
    expect(EXIT).toEqual({
      ok: 0,
      failed: 1,
      usage: 2,
      unreachable: 3,
      cancelled: 4,
      inDoubt: 5,
      remainder: 6,
    });
  });

  it.each([
    ['DOMAIN_NOT_FOUND', 1],
    ['DISK_NO_SPACE', 1],
    ['INTERNAL', 1],
    ['A_REASON_OF_A_LATER_VERSION', 1],
    ['REQUEST_INVALID', 2],
    ['CONFIG_INVALID', 2],
    ['SPEC_INVALID', 2],
    ['AGENT_UNREACHABLE', 3],
    ['PEER_UNREACHABLE', 3],
    ['TLS_PEER_REJECTED', 3],
    ['PERMISSION_DENIED', 3],
    ['CANCELLED_BY', 4],
    ['OWNERSHIP_UNKNOWN', 5],
  ])('an error with reason %s exits with %i', (reason, code) => {
    expect(exitOfReason(reason)).toBe(code);
  });

  it.each([
    ['STATE_SUCCEEDED', 0],
    ['STATE_FAILED', 1],
    ['STATE_CANCELLED', 4],
    ['STATE_IN_DOUBT', 5],
    ['UNRECOGNIZED', 1],
  ] as const)('a migration that ends in %s exits with %i', (state, code) => {
    expect(exitOfState(state)).toBe(code);
  });
});

describe('--json', () => {
  it('names fields and enum values as the proto files do, and keeps the keys of a map', () => {
    expect(toJson(failed)).toMatchObject({
      migration_id: failed.migrationId,
      state: 'STATE_FAILED',
      running_on: 'RUNNING_ON_SOURCE',
      create_time: '2026-03-01T12:00:00.000Z',
      disks: [
        { disk_id: 'root', bytes_per_s: 432013312 },
        { disk_id: 'data', bytes_per_s: 0 },
      ],
      failure: { side: 'SIDE_DESTINATION', metadata: { required_bytes: '10737418240' } },
    });
    expect(toJson(failed)).not.toHaveProperty('ram');
  });
});

describe('a UUID', () => {
  it.each([
    ['11111111-2222-4333-8444-555555555555', true],
    ['11111111-2222-4333-8444-55555555555', false],
    ['web1', false],
  ])('%s: %s', (text, expected) => {
    expect(isUuid(text)).toBe(expected);
  });
});
