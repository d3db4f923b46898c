import { describe, expect, it } from 'vitest';
import { formatAddress, isWildcard, parseAddress } from '../../src/util/address.js';

describe('an address', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1', 7443],
    ['10.0.0.1:8000', '10.0.0.1', 8000],
    [' host-b.example.org ', 'host-b.example.org', 7443],
    ['[fd00::1]', 'fd00::1', 7443],
    ['[::]:1', '::', 1],
  ])('%s is host %s and port %i', (text, host, port) => {
    expect(parseAddress(text)).toEqual({ host, port });
    expect(parseAddress(formatAddress({ host, port }))).toEqual({ host, port });
  });

  it.each([
    '',
    ':7443',
    'fd00::1',
    '10.0.0.1:',
    '10.0.0.1:0',
    '10.0.0.1:65536',
    'a b',
    '[x]:1',
    'a/b',
    '-a',
  ])('"%s" is none', (text) => {
    expect(() => parseAddress(text)).toThrow(/^".*" is not an address\. Give /);
  });

  it('may have port 0 where any port will do', () => {
    expect(parseAddress('127.0.0.1:0', { anyPort: true })).toEqual({ host: '127.0.0.1', port: 0 });
  });

  it('is a wildcard where it stands for all addresses', () => {
    expect(['0.0.0.0', '::', '10.0.0.1'].map(isWildcard)).toEqual([true, true, false]);
  });
});
