import { readFileSync } from 'node:fs';
import {
  createFileRegistry,
  type DescField,
  type DescMessage,
  fromBinary,
  ScalarType,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { describe, expect, it } from 'vitest';
import { checkIncomingData } from '../../../src/domain/incoming-data.js';
import { launchArguments } from '../../../src/domain/launch-arguments.js';
import type { LaunchSpec } from '../../../src/domain/launch-spec.js';
import { Refusals } from '../../../src/domain/refusals.js';
import { LaunchSpec as WireLaunchSpec } from '../../../src/gen/drover/v1/launch_spec.js';
import { PrepareRequest } from '../../../src/gen/drover/v1/peer_service.js';
import { identityArguments } from '../../../src/process/identity-arguments.js';
import { launchSpecFromWire, launchSpecToWire } from '../../../src/rpc/convert-launch-spec.js';
import { peerDefinition } from '../../../src/rpc/peer-definition.js';
import { type DomainSpec, parseDomainSpec } from '../../../src/spec/domain-spec.js';
import { ReasonedError } from '../../../src/util/reasoned-error.js';
import { HOSTILE_STRINGS, launchSpec } from '../../fuzz/samples.js';

type Tree = { [key: string]: unknown };
type Place = readonly (string | number)[];

const registry = createFileRegistry(
  fromBinary(
    FileDescriptorSetSchema,
    readFileSync(new URL('../../../src/gen/descriptor.binpb', import.meta.url)),
  ),
);

const wire = () =>
  WireLaunchSpec.decode(WireLaunchSpec.encode(launchSpecToWire(launchSpec)).finish());

/** The places of every text in a message, keys and values of maps included, by its descriptor. */
function textsOf(message: DescMessage, tree: Tree, at: Place): { field: string; place: Place }[] {
  return message.fields.flatMap((field) => {
    const name = `${message.name}.${field.name}`;
    const value = tree[field.localName];
    const here = [...at, field.localName];
    switch (field.fieldKind) {
      case 'scalar':
        return isText(field) ? [{ field: name, place: here }] : [];
      case 'message':
        return textsOf(field.message, value as Tree, here);
      case 'list': {
        const items = value as Tree[];
        return field.listKind === 'message'
          ? items.flatMap((item, index) => textsOf(field.message, item, [...here, index]))
          : items.map((_, index) => ({ field: name, place: [...here, index] }));
      }
      case 'map':
        return Object.keys(value as Tree).flatMap((key) => [
          { field: `${name} (key)`, place: [...here, key, 'KEY'] },
          ...(isText(field) ? [{ field: name, place: [...here, key] }] : []),
        ]);
      default:
        return [];
    }
  });
}

function isText(field: DescField): boolean {
  return (
    (field.fieldKind === 'scalar' || field.fieldKind === 'map') &&
    field.scalar === ScalarType.STRING
  );
}

/** The texts that a message can have at all. */
function fieldsOf({ name, fields }: DescMessage): string[] {
  return fields.flatMap((field) => {
    const own = `${name}.${field.name}`;
    if (field.fieldKind === 'map') return [`${own} (key)`, ...(isText(field) ? [own] : [])];
    const below = 'message' in field && field.message ? fieldsOf(field.message) : [];
    const text = isText(field) || (field.fieldKind === 'list' && field.listKind === 'scalar');
    return text ? [own] : below;
  });
}

function withText(place: Place, text: string): WireLaunchSpec {
  const root = wire();
  const isKey = place.at(-1) === 'KEY';
  const path = isKey ? place.slice(0, -1) : place;
  const last = path.at(-1) as string;
  const node = path.slice(0, -1).reduce<Tree>((tree, key) => tree[key] as Tree, root as never);
  if (!isKey) node[last] = text;
  else {
    const value = node[last];
    delete node[last];
    Object.defineProperty(node, text, { value, enumerable: true, configurable: true });
  }
  return root;
}

const places = textsOf(registry.getMessage('drover.v1.LaunchSpec')!, wire() as never, []);

/** What the destination would start, or undefined where the launch spec was refused. */
function render(given: WireLaunchSpec): readonly string[] | undefined {
  let taken: LaunchSpec;
  try {
    const { requestType } = peerDefinition.methods.prepare;
    const request = PrepareRequest.encode({ header: undefined, launchSpec: given }).finish();
    taken = launchSpecFromWire(requestType.decode(request).launchSpec);
  } catch (error) {
    if (error instanceof ReasonedError) return undefined;
    throw error;
  }
  const refusals = new Refusals();
  const spec = checkIncomingData(taken, refusals);
  if (!spec || !refusals.empty) return undefined;
  const { cpuModel: model, cpuFeatures: features, cpuProperties: properties, pciSlots } = taken;
  return [
    ...identityArguments({ uuid: spec.uuid, name: spec.name, directory: '/run/x' }),
    ...launchArguments(
      { spec, cpu: { model, features, properties }, pciSlots },
      placesFor(spec),
      'incoming',
    ),
  ];
}

/** Where this host has what the spec names. */
function placesFor(spec: DomainSpec) {
  const images = spec.disks.map(
    ({ id, format }) => [id, { driver: 'file' as const, path: '/pool/own', format }] as const,
  );
  return {
    images: Object.fromEntries(images),
    kernel: { path: '/boot/linux', initrdPath: '/boot/initrd' },
    serialPath: '/state/serial.log',
    taps: Object.fromEntries(spec.nics.map(({ id }) => [id, 'drv0'])),
  };
}

/** Options of QEMU that read their value as a list of settings. */
const LISTS = new Set([
  '-machine',
  '-cpu',
  '-m',
  '-smp',
  '-rtc',
  '-boot',
  '-name',
  '-chardev',
  '-mon',
  '-sandbox',
]);

/** The settings of an option as QEMU understands them: names and values, in order. */
function settingsOf(option: string, value: string): [string, string][] {
  if (option !== '-append' && value.startsWith('{')) {
    return Object.entries(JSON.parse(value) as Tree).map(([key, one]) => [
      key,
      JSON.stringify(one),
    ]);
  }
  if (!LISTS.has(option)) return [['', value]];
  // A doubled comma is one that belongs to the value.
  const parts = value.replaceAll(',,', '\u{1}').split(',');
  return parts.map((part) => {
    const at = part.indexOf('=');
    return at < 0 ? [part, ''] : [part.slice(0, at), part.slice(at + 1)];
  });
}

describe('a launch spec from a peer', () => {
  it('is tried in every text that it has', () => {
    const tried = new Set(places.map(({ field }) => field));
    const all = new Set(fieldsOf(registry.getMessage('drover.v1.LaunchSpec')!));
    expect([...all].filter((field) => !tried.has(field))).toEqual([]);
    expect(tried.size).toBeGreaterThan(25);
  });

  it('is rendered at all while it is honest', () => {
    expect(render(wire())?.length).toBeGreaterThan(60);
  });

  it.each(places)('cannot become an option of QEMU in $field at $place', ({ place }) => {
    const honest = render(wire()) ?? [];
    let accepted = 0;
    const freeText = ['kernelArguments', 'cpuProperties'].some((field) => place.includes(field));
    // What is empty is open, and stands for its default.
    for (const text of HOSTILE_STRINGS.filter(Boolean)) {
      const argv = render(withText(place, text));
      if (!argv) continue;
      accepted += 1;
      const shown = JSON.stringify(text.slice(0, 40));
      // The same options in the same order.
      const options = (all: readonly string[]) =>
        all.filter((one) => /^-[a-z]/.test(one) && one !== text);
      expect(options(argv), shown).toEqual(options(honest));
      for (const [index, argument] of argv.entries()) {
        const option = argv[index - 1] ?? '';
        if (argument === honest[index]) continue;
        // What changed is the value of an option, and of one setting in it; a renamed id also
        // renames what is called after it.
        const now = settingsOf(option, argument);
        const before = settingsOf(option, honest[index] ?? '');
        expect(now.length, `${shown} in ${option} ${argument}`).toBe(before.length);
        for (const [at, [name, value]] of now.entries()) {
          // The model comes first, and has no name.
          if (option === '-cpu' && at === 0) expect(name).toMatch(/^[\w.-]+$/);
          else if (place.at(-1) === 'KEY') expect(name).toMatch(/^[A-Za-z0-9][\w.-]*$/);
          else expect(before.map(([known]) => known)).toContain(name);
          if (!freeText) expect(value).not.toMatch(/(^|"|=)(\/etc\/|json:|nbd:|exec:|file:)/);
        }
      }
    }
    // Most of them are good for nothing anywhere; kernel arguments may say much to the guest.
    expect(accepted).toBeLessThan(
      freeText ? HOSTILE_STRINGS.length * 0.8 : HOSTILE_STRINGS.length / 2,
    );
  });

  it('gives its kernel arguments to the guest as one whole argument', () => {
    const text = '-readconfig /etc/shadow,file=x "json:{}"';
    const argv = render(withText(['spec', 'kernelArguments'], text)) ?? [];
    expect(argv.filter((one) => one.includes('shadow'))).toEqual([text]);
    expect(argv[argv.indexOf(text) - 1]).toBe('-append');
  });

  it('with 10,000 of anything is refused at once, in few words', () => {
    const disk = wire().disks[0]!;
    const specDisk = wire().spec!.disks[0]!;
    const nic = wire().spec!.nics[0]!;
    const many = <T>(item: T) => Array.from({ length: 10_000 }, () => ({ ...item }));
    const map = Object.fromEntries(many(0).map((_, index) => [`f${index}`, true]));
    const spec = wire().spec!;
    const huge: WireLaunchSpec[] = [
      { ...wire(), disks: many(disk) },
      { ...wire(), spec: { ...spec, disks: many({ ...specDisk, id: '/', pool: '/', bus: '/' }) } },
      { ...wire(), spec: { ...spec, nics: many(nic) } },
      { ...wire(), cpuFeatures: map },
      { ...wire(), cpuProperties: Object.fromEntries(Object.keys(map).map((key) => [key, 'x'])) },
      { ...wire(), pciSlots: Object.fromEntries(Object.keys(map).map((key) => [key, 3])) },
      {
        ...wire(),
        _unknownFields: Object.fromEntries(Object.keys(map).map((_, tag) => [tag * 8, []])),
      },
      {
        ...wire(),
        spec: {
          ...spec,
          _unknownFields: Object.fromEntries(Object.keys(map).map((_, tag) => [tag * 8, []])),
        },
      },
    ];
    for (const given of huge) {
      const start = process.cpuUsage();
      const error = refusal(given);
      const { user, system } = process.cpuUsage(start);
      expect((user + system) / 1000).toBeLessThan(200);
      expect(error.message.length + JSON.stringify(error.violations).length).toBeLessThan(20_000);
    }
  });

  it.each([
    ['NaN', Number.NaN],
    ['a negative number', -512],
    ['a fraction', 512.5],
    ['more than can be exact', 2 ** 53],
    ['infinity', Number.POSITIVE_INFINITY],
  ])('is refused with %s for any of its numbers', (_name, number) => {
    const numbers: ((given: WireLaunchSpec) => void)[] = [
      (given) => (given.disks[0]!.sizeBytes = number),
      (given) => (given.disks[0]!.allocatedBytes = number),
      (given) => (given.pciSlots['disk-root'] = number),
      (given) => (given.spec!.memoryBytes = number),
      (given) => (given.spec!.vcpus = number),
      (given) => (given.spec!.disks[0]!.sizeBytes = number),
    ];
    for (const change of numbers) {
      const given = wire();
      change(given);
      refusal(given);
    }
  });

  it('is refused with a field that this version does not know, wherever it is', () => {
    const unknown = { [(1000 << 3) | 0]: [new Uint8Array([1])] };
    const changes: ((given: WireLaunchSpec) => { _unknownFields?: unknown })[] = [
      (given) => given,
      (given) => given.disks[1]!,
      (given) => given.spec!,
      (given) => given.spec!.disks[2]!,
      (given) => given.spec!.nics[0]!,
      (given) => given.spec!.serial!,
    ];
    for (const find of changes) {
      const given = wire();
      find(given)._unknownFields = unknown;
      const bytes = WireLaunchSpec.encode(given).finish();
      expect(refusal(WireLaunchSpec.decode(bytes)).message).toContain('1000');
    }
  });

  it.each([
    ['a field of an entry that it does not know', [0x0a, 1, 0x61, 0x10, 1, 0x18, 7]],
    ['the key __proto__', [0x0a, 9, ...Buffer.from('__proto__'), 0x10, 1]],
  ])('is refused with %s, which the generated code drops', (_name, entry) => {
    const { requestType } = peerDefinition.methods.prepare;
    const entryBytes = Buffer.from([0x1a, entry.length, ...entry]);
    const launch = Buffer.concat([WireLaunchSpec.encode(wire()).finish(), entryBytes]);
    const size = Buffer.from([(launch.length & 0x7f) | 0x80, launch.length >> 7]);
    const request = requestType.decode(Buffer.concat([Buffer.of(0x12), size, launch]));
    expect(refusal(request.launchSpec).reason).toBe('VERSION_SKEW');
    const plain = PrepareRequest.fromPartial({ launchSpec: wire() });
    const honest = requestType.decode(requestType.encode(plain).finish());
    expect(launchSpecFromWire(honest.launchSpec)).toEqual(launchSpec);
  });

  it('leaves nothing open', () => {
    const open: ((given: LaunchSpec) => LaunchSpec)[] = [
      (given) => ({ ...given, spec: { ...given.spec, uuid: '' } }),
      (given) => ({ ...given, spec: { ...given.spec, machine: 'pc' } }),
      (given) => ({ ...given, spec: { ...given.spec, machine: 'q35' } }),
      (given) => ({
        ...given,
        spec: { ...given.spec, nics: [{ ...given.spec.nics[0]!, mac: '' }] },
      }),
      (given) => ({ ...given, kernelSha256: '' }),
      (given) => ({ ...given, pciSlots: { ...given.pciSlots, 'disk-other': 9 } }),
      (given) => ({ ...given, disks: given.disks.map((disk) => ({ ...disk, imageSha256: '' })) }),
    ];
    for (const change of open) {
      const refusals = new Refusals();
      checkIncomingData(change(launchSpec), refusals);
      expect(refusals.empty, change.toString()).toBe(false);
    }
    const refusals = new Refusals();
    expect(checkIncomingData(launchSpec, refusals)).toEqual(parseDomainSpec(launchSpec.spec));
    expect(refusals.empty).toBe(true);
  });
});

function refusal(given: WireLaunchSpec | undefined): ReasonedError {
  try {
    launchSpecFromWire(given);
  } catch (error) {
    if (error instanceof ReasonedError) return error;
    throw error;
  }
  throw new Error('It was taken.');
}
