import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { renderCliDoc } from '../../../scripts/write-cli-doc.js';
import { EXIT } from '../../../src/cli/exit-codes.js';
import { parseDomainFile } from '../../../src/spec/domain-file.js';
import { checkDomainSpec } from '../../../src/spec/domain-spec.js';

const read = (name: string) =>
  readFileSync(new URL(`../../../docs/${name}`, import.meta.url), 'utf8');

describe('docs/cli.md', () => {
  it('has the help of every command as the program prints it', () => {
    expect(read('cli.md')).toBe(renderCliDoc());
  });

  it('has a row for every exit code', () => {
    for (const code of Object.values(EXIT)) expect(read('cli.md')).toContain(`\n| ${code} | `);
  });
});

describe('docs/domain.example.yaml', () => {
  it('is a spec without a fault', () => {
    const input = parseDomainFile(read('domain.example.yaml'), 'domain.example.yaml');
    expect(input).toMatchObject({ name: 'web1', memoryBytes: 2 * 1024 ** 3, vcpus: 2 });
    expect(checkDomainSpec(input).violations).toEqual([]);
  });

  it('names every field that a spec can have', () => {
    const { spec } = checkDomainSpec({
      name: 'a',
      memoryBytes: 16 * 1024 ** 2,
      accelerator: 'tcg',
      disks: [{ id: 'a', sizeBytes: 512 }],
      nics: [{ id: 'n' }],
      serial: { type: 'file' },
    });
    const [disk, nic] = [spec!.disks[0]!, spec!.nics[0]!];
    const fields = [spec!, disk, nic, spec!.serial!].flatMap((group) => Object.keys(group));
    const words = fields.map((field) =>
      field.replace(/Bytes$/, '').replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    );
    expect(words).toContain('read_only');
    for (const word of words) {
      expect(read('domain.example.yaml')).toMatch(new RegExp(`^[ -]*${word}:`, 'm'));
    }
  });
});
