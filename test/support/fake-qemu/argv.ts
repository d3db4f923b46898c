/** A JSON object of a `-blockdev`, `-device` or `-object` option. */
export type OptionObject = Readonly<Record<string, unknown>>;

/** What a fake QEMU takes from its command line. Everything else is ignored. */
export interface FakeConfig {
  readonly uuid: string;
  readonly name: string;
  readonly machine: string;
  readonly memoryBytes: number;
  readonly vcpus: number;
  /** `-S`: the guest does not run before `cont`. */
  readonly stopped: boolean;
  /** `-incoming defer`. */
  readonly incoming: boolean;
  readonly monitorPaths: readonly string[];
  readonly pidFile: string | undefined;
  readonly blockdevs: readonly OptionObject[];
  readonly devices: readonly OptionObject[];
  readonly objects: readonly OptionObject[];
}

/** Reads a command line. Throws an Error with QEMU's kind of words if it cannot be started so. */
export function parseArgv(argv: readonly string[]): FakeConfig {
  const options = new Map<string, string[]>();
  const flags = new Set<string>();
  for (let index = 0; index < argv.length; index++) {
    const option = argv[index] as string;
    const value = argv[index + 1];
    if (FLAGS.has(option)) flags.add(option);
    else {
      if (value === undefined) throw new Error(`${option}: requires an argument`);
      options.set(option, [...(options.get(option) ?? []), value]);
      index++;
    }
  }
  const last = (option: string) => options.get(option)?.at(-1);
  const all = (option: string) => options.get(option) ?? [];
  const chardevs = new Map(all('-chardev').map((text) => parseChardev(text)));
  return {
    uuid: last('-uuid') ?? '00000000-0000-0000-0000-000000000000',
    name: keyValues(last('-name') ?? '').get('guest') ?? '',
    machine: (last('-machine') ?? last('-M') ?? 'none').split(',')[0] as string,
    memoryBytes: parseMemory(last('-m') ?? '128M'),
    vcpus: Number.parseInt(keyValues(last('-smp') ?? '1').get('cpus') ?? last('-smp') ?? '1', 10),
    stopped: flags.has('-S'),
    incoming: last('-incoming') === 'defer',
    monitorPaths: all('-mon').flatMap(
      (text) => chardevs.get(keyValues(text).get('chardev') ?? '') ?? [],
    ),
    pidFile: last('-pidfile'),
    blockdevs: all('-blockdev').map(parseObject),
    devices: all('-device').map(parseObject),
    objects: all('-object').map(parseObject),
  };
}

const FLAGS: ReadonlySet<string> = new Set([
  '-nodefaults',
  '-no-user-config',
  '-S',
  '-nographic',
  '-enable-kvm',
  '-no-reboot',
  '-no-shutdown',
  '-daemonize',
]);

function parseObject(text: string): OptionObject {
  if (!text.startsWith('{')) throw new Error(`The fake takes JSON only, not ${text}`);
  return JSON.parse(text) as OptionObject;
}

function keyValues(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split(/(?<!,),(?!,)/).map((part) => {
      const [key = '', ...value] = part.split('=');
      return [key, value.join('=').replaceAll(',,', ',')];
    }),
  );
}

function parseChardev(text: string): [string, string] {
  const values = keyValues(text);
  return [values.get('id') ?? '', values.get('path') ?? ''];
}

/** A number without a unit is MiB, as QEMU has it. */
function parseMemory(text: string): number {
  const size = keyValues(text).get('size') ?? text.split(',')[0] ?? text;
  const match = /^(\d+)([KMGB]?)$/i.exec(size);
  if (!match) throw new Error(`Invalid parameter '${size}' for -m`);
  const factor = { B: 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[(match[2] || 'M').toUpperCase()] ?? 1;
  return Number(match[1]) * factor;
}
