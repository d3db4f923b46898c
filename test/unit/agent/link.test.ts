import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../../src/agent/config.js';
import { DEFAULT_LINK } from '../../../src/migration/traffic.js';

const MINIMAL = `host: host-a
tls: {certificate: c.pem, key: k.pem, ca: ca.pem}
data: {address: 10.0.0.1}
`;
const linkOf = (group: string) => parseConfig(`${MINIMAL}link: {${group}}`, '/a.yaml').link;

describe('the link in the configuration', () => {
  it('has no budget and one phase of RAM where nothing is said', () => {
    expect(linkOf('')).toEqual(DEFAULT_LINK);
    expect(parseConfig(MINIMAL, '/a.yaml').link).toEqual(DEFAULT_LINK);
  });

  it('takes a budget out and in, and up to eight phases of RAM', () => {
    const text = 'egress_bytes_per_s: 125000000, ingress_bytes_per_s: 1048576, ram_phases: 8';
    expect(linkOf(text)).toEqual({
      egressBytesPerS: 125_000_000,
      ingressBytesPerS: 1_048_576,
      ramPhases: 8,
    });
  });

  it.each([
    ['egress_bytes_per_s: 1048575', 'link.egress_bytes_per_s must be 0, or a whole number from'],
    ['ingress_bytes_per_s: -1', 'link.ingress_bytes_per_s must be 0, or a whole number from'],
    ['egress_bytes_per_s: 1.5', 'link.egress_bytes_per_s must be 0, or a whole number from'],
    ['ram_phases: 0', 'link.ram_phases must be a whole number from 1 to 8'],
    ['ram_phases: 9', 'link.ram_phases must be a whole number from 1 to 8'],
  ])('refuses %s', (text, message) => {
    expect(() => linkOf(text)).toThrow(message);
  });
});
