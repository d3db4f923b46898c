import fc from 'fast-check';
import { parseConfig } from '../../src/agent/config.js';
import { parseDomainFile } from '../../src/spec/domain-file.js';
import { checkDomainSpec } from '../../src/spec/domain-spec.js';
import { ReasonedError } from '../../src/util/reasoned-error.js';
import { nearCorpus } from './mutations.js';
import { HOSTILE_STRINGS, launchSpec } from './samples.js';
import { must, target, unlessRefused } from './target.js';

/** What an error may hold, in characters: it is shown to people and sent to callers. */
const ERROR_LIMIT = 100_000;

const YAML_WORDS = [
  ...HOSTILE_STRINGS.filter((text) => text.length < 100),
  ...['\n', '\n  ', ': ', '- ', '\n- ', '? ', '&a ', '*a', '!!map ', '!!binary ', '<<: ', '---\n'],
  ...['%YAML 1.1\n', '...\n', '|\n', '>-\n', '[', ']', '{', '}', '#', '@', '`', '"\\x00"', '\t'],
  ...['.inf', '.nan', '0o17', '1_000', 'null', '~', 'true', '2026-11-23', '64TiB', '1e400'],
  ...['[[[[[[[[[[[[[[[[', '{a: {a: {a: ', '- - - - - - - ', '? ? ? ? ', '__proto__: {}\n'],
];

const small = (text: string) => Buffer.from(text);

const configCorpus = [
  small('host: a\ntls: {certificate: c, key: k, ca: a}\ndata: {address: h, ports: 1-2}\n'),
  small(
    [
      'host: a',
      'listen: {address: "[::]:7443", unix: s.sock}',
      'tls: {certificate: c, key: k, ca: a}',
      'data: {address: 10.0.0.1}',
      'pools: [{name: default, path: p, shared: true}]',
      'kernels: [{name: k, kernel: v, initrd: i, arguments: "a b"}]',
      'peers: [{name: b, address: "b:1"}, {name: c, address: "c:1"}]',
      'fence: {command: /bin/true, arguments: [a, b], limit_ms: 5}',
      'limits: {connections: 10, incoming_per_peer: 2, lease_ms: 600000}',
      'qemu: {uids: 400000-465535}',
    ].join('\n'),
  ),
  small('host: a\npeers:\n- name: b\n  address: b:1\n'),
];

const domainCorpus = [
  small(
    [
      'name: web',
      'uuid: 3f0c1a52-7d7e-4a39-9b5c-2f1f3f0a8d11',
      'memory: 2GiB',
      'accelerator: kvm',
      'kernel: linux',
      'disks:',
      '  - {id: root, pool: p, size: 1G, image: d.qcow2, image_format: qcow2, format: qcow2}',
      '  - id: tools # a comment',
      '    image: "tools.iso"',
      '    read_only: true',
      'nics: [{id: lan, type: tap, bridge: br0, mac: "52:54:00:12:34:56", model: e1000}]',
      'serial: {type: socket}',
      'rng: true',
    ].join('\n'),
  ),
  small('name: a\nmemory: 64MiB\naccelerator: tcg\ndisks:\n- {id: a, size: 1GiB}\n'),
  small('name: a\nmemory: 64M\naccelerator: kvm\nserial: {type: file}\nnics: [{id: n}]\n'),
];

const isReasoned = (error: unknown) => {
  if (!(error instanceof ReasonedError)) return false;
  const told = error.message.length + JSON.stringify(error.violations).length;
  must(told < ERROR_LIMIT, `the error has ${told} characters`);
  return true;
};

/** The agent's configuration. */
export const config = target({
  name: 'config',
  reads: 'the configuration file',
  inputs: nearCorpus(configCorpus, YAML_WORDS),
  check(bytes) {
    unlessRefused(
      () => parseConfig(bytes.toString('utf8'), '/etc/drover/agent.yaml'),
      (error) => isReasoned(error) && (error as ReasonedError).reason === 'CONFIG_INVALID',
    );
  },
});

/** A domain's file, which `drover create` reads. */
export const domainFile = target({
  name: 'domain-file',
  reads: 'a domain as YAML',
  inputs: nearCorpus(domainCorpus, YAML_WORDS),
  check(bytes) {
    unlessRefused(() => parseDomainFile(bytes.toString('utf8'), 'web.yaml'), isReasoned);
  },
});

const SHORT = HOSTILE_STRINGS.filter((text) => text.length < 1000);

const anything = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom<unknown>(...SHORT) },
  {
    weight: 3,
    arbitrary: fc.constantFrom<unknown>(
      ...[0, -0, -1, 0.5, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY, 1e300],
      ...[null, undefined, true, [], {}, [[]], 1n, Symbol.iterator, () => 1, new Date(Number.NaN)],
      Object.create(null),
      JSON.parse('{"__proto__": {"a": 1}}'),
      ...[Array(200).fill({}), Array(200).fill('x'), { toJSON: 1, toString: 0 }],
    ),
  },
  { weight: 1, arbitrary: fc.anything({ maxDepth: 3, withBigInt: true, withNullPrototype: true }) },
);

type Change = readonly [at: number, value: unknown, remove: boolean];

/** A sound spec in which some fields, anywhere in it, hold something else. */
const changedSpec = fc
  .array(fc.tuple(fc.nat(200), anything, fc.boolean()), { maxLength: 4 })
  .map((changes: readonly Change[]) => {
    const spec = structuredClone(launchSpec.spec);
    // Found before anything is changed: the odd values are not to be changed themselves.
    const places = fieldsOf(spec);
    for (const [at, value, remove] of changes) {
      const [node, key] = places[at % places.length] ?? [spec, 'name'];
      if (remove && at % 3 === 0) Reflect.deleteProperty(node, key);
      else Reflect.set(node, at % 7 === 0 ? `x${at}` : key, value);
    }
    return spec;
  });

function fieldsOf(node: object): [object, string][] {
  return Object.entries(node).flatMap(([key, child]: [string, unknown]) => [
    [node, key] as [object, string],
    ...(typeof child === 'object' && child !== null ? fieldsOf(child) : []),
  ]);
}

/** A domain's spec as data, from the wire or from a file. */
export const domainSpec = target({
  name: 'domain-spec',
  reads: 'a domain as data',
  inputs: fc.oneof(
    { weight: 6, arbitrary: changedSpec as fc.Arbitrary<unknown> },
    { weight: 1, arbitrary: anything },
  ),
  check(input) {
    const { spec, violations } = checkDomainSpec(input);
    must((spec === undefined) === violations.length > 0, 'a spec is there where it is sound');
    const told = violations.reduce((sum, { message }) => sum + message.length, 0);
    must(told < ERROR_LIMIT, `the violations have ${told} characters`);
  },
});
