import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { parseConfig } from '../../../src/agent/config.js';
import { DEFAULT_LIMITS, LIMIT_RANGES, type Limits } from '../../../src/agent/limits.js';
import { ReasonedError } from '../../../src/util/reasoned-error.js';

const MINIMAL = `host: host-a
tls: {certificate: c.pem, key: k.pem, ca: ca.pem}
data: {address: 10.0.0.1}
`;
const NAMES = Object.keys(LIMIT_RANGES) as (keyof Limits)[];
const written = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const limitsOf = (group: string) => parseConfig(`${MINIMAL}limits: {${group}}`, '/a.yaml').limits;
const doc = (name: string) => readFile(new URL(`../../../docs/${name}`, import.meta.url), 'utf8');

describe('the limits in the configuration', () => {
  it.each(NAMES)('%s has a default, a least and a most', (name) => {
    const [least, most] = LIMIT_RANGES[name];
    expect(limitsOf('')).toEqual(DEFAULT_LIMITS);
    expect(DEFAULT_LIMITS[name]).toBeGreaterThanOrEqual(least);
    expect(DEFAULT_LIMITS[name]).toBeLessThanOrEqual(most);
    for (const value of [least, most]) {
      expect(limitsOf(`${written(name)}: ${value}`)).toEqual({ ...DEFAULT_LIMITS, [name]: value });
    }
    for (const value of [least - 1, most + 1, least + 0.5, '"8"', 'null']) {
      try {
        limitsOf(`${written(name)}: ${value}`);
        expect.unreachable();
      } catch (error) {
        expect(error).toBeInstanceOf(ReasonedError);
        expect((error as ReasonedError).reason).toBe('CONFIG_INVALID');
        expect((error as ReasonedError).message).toContain(
          `limits.${written(name)} must be a whole number from ${least} to ${most}`,
        );
      }
    }
  });

  it.each(NAMES)('%s is in the example with its default, and in docs/limits.md', async (name) => {
    const [example, limits] = await Promise.all([doc('agent.example.yaml'), doc('limits.md')]);
    expect(example).toMatch(new RegExp(`^  ${written(name)}: ${DEFAULT_LIMITS[name]}$`, 'm'));
    const row = limits.split('\n').find((line) => line.startsWith(`| \`${written(name)}\` |`));
    expect(row).toContain(`| ${DEFAULT_LIMITS[name]} |`);
    const [least, most] = LIMIT_RANGES[name];
    expect(row).toContain(`| ${least} to ${most} |`);
  });
});
