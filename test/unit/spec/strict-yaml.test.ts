import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { parseDomainFile } from '../../../src/spec/domain-file.js';
import { duration, size } from '../../../src/spec/fields.js';
import { parseStrict } from '../../../src/spec/strict-yaml.js';
import type { ReasonedError } from '../../../src/util/reasoned-error.js';

const schema = z.strictObject({
  host: z.string(),
  dataPorts: z.strictObject({ first: z.number(), last: z.number().max(65535) }).optional(),
  peers: z.array(z.strictObject({ name: z.string() })).default([]),
  limit: duration().optional(),
  floor: size().optional(),
});

const read = (text: string) =>
  parseStrict(text, 'agent.yaml', schema, { reason: 'CONFIG_INVALID' });

/** The error that a reading throws. */
function failure(work: () => unknown): ReasonedError {
  try {
    work();
  } catch (error) {
    return error as ReasonedError;
  }
  throw new Error('It was read.');
}

const wrong = (text: string) => failure(() => read(text)).violations.map(({ message }) => message);

describe('a strict YAML file', () => {
  it('has snake_case keys, sizes and durations with units', () => {
    const text = 'host: a\ndata_ports: {first: 1, last: 2}\nlimit: 300ms\nfloor: 64MiB\n';
    expect(read(text)).toEqual({
      host: 'a',
      dataPorts: { first: 1, last: 2 },
      peers: [],
      limit: 300,
      floor: 64 * 1024 ** 2,
    });
  });

  it('tells an unknown key with its line and the key that was meant', () => {
    expect(wrong('host: a\n\ndata_port:\n  first: 1\n')).toEqual([
      'line 3: the file has the unknown key `data_port`; did you mean `data_ports`?',
    ]);
    expect(wrong('host: a\npeers:\n  - name: b\n  - nam: c\n    name: c\n')).toEqual([
      'line 4: peers[1] has the unknown key `nam`; did you mean `name`?',
    ]);
    expect(wrong('host: a\nzebra: 1\n')).toEqual([
      expect.stringContaining('known are host, data_ports, peers'),
    ]);
    expect(wrong('host: a\ndataPorts: {}\n')).toEqual([
      expect.stringContaining('did you mean `data_ports`?'),
    ]);
  });

  it('tells wrong and missing values with their lines, all at once', () => {
    expect(
      wrong('peers:\n  - name: 7\nfloor: 1GB\ndata_ports:\n  first: 1\n  last: 70000\n'),
    ).toEqual([
      'line 1: host must be given',
      'line 2: peers[0].name must be of type string',
      'line 3: floor must be a size such as 256MiB, not "1GB"',
      'line 6: data_ports.last must be at most 65535',
    ]);
  });

  it.each([
    ['host: a\nhost: b\n'],
    ['host: [a\n'],
    ['host: &x a\npeers: [{name: *x}]\n'],
    ['host: a\n---\nhost: b\n'],
    ['host: !secret a\n'],
    ['- a\n'],
    ['\t'],
    [''],
  ])('refuses %j', (text) => {
    const error = failure(() => read(text));
    expect(error.reason).toBe('CONFIG_INVALID');
    expect(error.message).toMatch(/^agent\.yaml is wrong: line \d/);
  });

  it('cannot reach the prototype of anything', () => {
    expect(wrong('host: a\n__proto__: {polluted: true}\n')).toHaveLength(1);
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });
});

describe('a domain file', () => {
  it('becomes a spec of the wire, with what is open left open', () => {
    const text = [
      'name: web1',
      'memory: 256MiB',
      'accelerator: tcg',
      'kernel: linux',
      'kernel_arguments: quiet',
      'disks:',
      '  - {id: root, size: 1GiB, bus: virtio-scsi}',
      '  - {id: tools, image: tools.iso, read_only: true}',
      'serial: {type: file}',
    ].join('\n');
    expect(parseDomainFile(text, 'web1.yaml')).toEqual({
      name: 'web1',
      memoryBytes: 256 * 1024 ** 2,
      accelerator: 'tcg',
      kernel: 'linux',
      kernelArguments: 'quiet',
      disks: [
        { id: 'root', sizeBytes: 1024 ** 3, bus: 'virtio-scsi' },
        { id: 'tools', image: 'tools.iso', readOnly: true },
      ],
      serial: { type: 'file' },
    });
  });

  it('tells what is wrong in its own words and lines', () => {
    const text = [
      'name: web1',
      'memroy: 256MiB',
      'memory: 256MB',
      'accelerator: tcg',
      'disks:',
      '  - id: a',
      '    size: 1000',
      '  - id: b',
      '    bus: nvme',
      '    size: 1MiB',
    ].join('\n');
    const error = failure(() => parseDomainFile(text, 'web1.yaml'));
    expect(error.violations).toEqual([
      expect.objectContaining({
        message: expect.stringMatching(/^line 2: .*did you mean `memory`/),
      }),
      expect.objectContaining({ subject: 'memory', message: expect.stringMatching(/256MB/) }),
      expect.objectContaining({
        subject: 'disks[0].size',
        message: 'line 7: disks[0].size must be a multiple of 512 bytes',
      }),
      expect.objectContaining({ reason: 'QEMU_DEVICE_UNKNOWN', subject: 'disks[1].bus' }),
    ]);
  });

  it('is read from the example of the docs', () => {
    const text = readFileSync('docs/domain.example.yaml', 'utf8');
    expect(parseDomainFile(text, 'domain.example.yaml').name).toBeTypeOf('string');
  });

  it('is refused soon and in few words, whatever it is', () => {
    const keys = Array.from({ length: 20_000 }, (_, index) => `k${index}: 1`).join('\n');
    const texts = [
      keys,
      'a: b\n@\n'.repeat(5000),
      '['.repeat(5000),
      '{a: '.repeat(5000),
      `a: ${'- '.repeat(5000)}`,
      `${'x'.repeat(5000)}: 1\n`,
    ];
    for (const text of texts) {
      const error = failure(() => parseDomainFile(text, 'web1.yaml'));
      expect(error.message.length + JSON.stringify(error.violations).length).toBeLessThan(30_000);
    }
    const long = failure(() => parseDomainFile(`# ${'x'.repeat(1024 ** 2)}`, 'web1.yaml'));
    expect(long.violations[0]?.message).toContain('more than 1048576 characters');
  });

  it('has every key once, and no deep groups', () => {
    const twice = failure(() => parseDomainFile('name: a\nname: b\n', 'web1.yaml'));
    expect(twice.message).toContain('line 2: name is there twice');
    const deep = failure(() => parseDomainFile(`name: ${'['.repeat(30)}${']'.repeat(30)}`, 'x'));
    expect(deep.message).toContain('nested more than 20 deep');
  });
});
