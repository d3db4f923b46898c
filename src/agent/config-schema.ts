import { isAbsolute, resolve } from 'node:path';
import { z } from 'zod';
import { flag, quote, text } from '../spec/fields.js';
import { isWildcard, parseAddress } from '../util/address.js';
import { limitsSchema } from './limits.js';
import { linkSchema } from './link.js';

/** The longest path that a unix socket can have, without the ending zero. */
const SOCKET_PATH_BYTES = 107;
/** A domain's sockets lie in `<run>/<uuid>/`; their names have at most 20 characters. */
const DOMAIN_SOCKET_BYTES = 1 + 36 + 1 + 20;

const HOST_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const INTERFACE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$/;
const CATALOGUE_NAME = /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$/;
/** As long as callers of ResolveMigration wait. */
const FENCE_LIMIT_MS = 600_000;
/** Below are users of the system and of people. */
const LEAST_UID = 1000;
/** The one after it means "no user". */
const GREATEST_UID = 2 ** 32 - 2;
const GROUP = { error: 'must be a group of fields' };

/**
 * The schema of the configuration file, keys in camelCase.
 *
 * @param folder What relative paths are relative to.
 */
export function configSchema(folder: string) {
  const path = pathIn(folder);
  const hostName = text(
    HOST_NAME,
    'must be the name of a host: up to 63 letters, digits, `.`, `_` or `-`, not first a sign',
  );
  const name = text(CATALOGUE_NAME, 'must be a name: letters, digits, `_`, `.`, `+` or `-`');
  const listen = z.strictObject(
    {
      address: address().prefault('0.0.0.0:7443'),
      unix: shortPath(path, SOCKET_PATH_BYTES).prefault('/run/drover/drover.sock'),
    },
    GROUP,
  );
  const directories = z.strictObject(
    {
      state: path.prefault('/var/lib/drover'),
      run: shortPath(path, SOCKET_PATH_BYTES - DOMAIN_SOCKET_BYTES).prefault('/run/drover'),
    },
    GROUP,
  );
  const data = z.strictObject(
    {
      address: dataAddress().optional(),
      ports: portRange().prefault('49500-49599'),
      streamPort: wholeNumber(0, 65_535).optional(),
    },
    GROUP,
  );
  const pool = z.strictObject({ name, path, shared: flag(false) }, GROUP);
  const kernel = z.strictObject(
    {
      name,
      kernel: path,
      initrd: path.optional(),
      arguments: z.string({ error: 'must be text' }).default(''),
    },
    GROUP,
  );
  const peer = z.strictObject({ name: hostName, address: address() }, GROUP);
  const fence = z.strictObject(
    {
      command: absolutePath(),
      arguments: z.array(argument(), { error: 'must be a list of arguments' }).default([]),
      limitMs: wholeNumber(1, FENCE_LIMIT_MS).default(60_000),
    },
    GROUP,
  );
  return z
    .strictObject(
      {
        host: hostName,
        listen: listen.prefault({}),
        tls: z.strictObject({ certificate: path, key: path, ca: path }, GROUP),
        directories: directories.prefault({}),
        data: data.prefault({}),
        pools: namedList(pool, 'pools'),
        kernels: namedList(kernel, 'kernels'),
        networks: networksSchema().prefault({}),
        peers: namedList(peer, 'peers'),
        fence: fence.optional(),
        limits: limitsSchema().prefault({}),
        link: linkSchema().prefault({}),
        qemu: z.strictObject({ uids: uidRange().prefault('400000-465535') }, GROUP).prefault({}),
      },
      GROUP,
    )
    .superRefine(
      ({ listen, data }, context) => {
        const refuse = (field: string, message: string) =>
          context.addIssue({ code: 'custom', path: ['data', field], message });
        // What is wrong by itself is told already, and neither has a host nor a number here.
        const { host, port } = listen?.address ?? {};
        if (data && data.address === undefined && host && isWildcard(host)) {
          refuse('address', `must be given, because the agent listens on all addresses`);
        }
        const { first, last } = data?.ports ?? {};
        if (Number(port) >= Number(first) && Number(port) <= Number(last)) {
          refuse('ports', `must not contain ${port}, which the agent listens on`);
          return;
        }
        const streamPort = data?.streamPort ?? Number(port) + 1;
        if (streamPort >= Number(first) && streamPort <= Number(last)) {
          refuse('streamPort', `must not be ${streamPort}, which is one of data.ports`);
        } else if (streamPort === Number(port) || streamPort > 65_535) {
          refuse('streamPort', `must be another port than ${streamPort}`);
        }
      },
      { when: isGroup },
    );
}

function networksSchema() {
  const bridge = text(
    INTERFACE_NAME,
    'must be the name of a bridge: up to 15 letters, digits, `.`, `_` or `-`, not first a sign',
  );
  return z.strictObject(
    {
      bridges: z.array(bridge, { error: 'must be a list of bridges' }).default([]),
      user: flag(false),
    },
    GROUP,
  );
}

/** A list in which no name stands twice; absent means empty. */
function namedList<Item extends z.ZodType<{ name: string }>>(item: Item, what: string) {
  return z
    .array(item, { error: `must be a list of ${what}` })
    .default([])
    .superRefine(
      (items, context) => {
        const names = items.map((entry) => entry?.name);
        names.forEach((name, index) => {
          if (typeof name !== 'string' || names.indexOf(name) === index) return;
          context.addIssue({
            code: 'custom',
            path: [index, 'name'],
            message: `must be another one: ${quote(name)} is there already`,
          });
        });
      },
      { when: ({ value }) => Array.isArray(value) },
    );
}

function pathIn(folder: string) {
  return z
    .string({ error: (issue) => (issue.input === undefined ? 'must be given' : 'must be a path') })
    .refine((value) => value !== '' && !value.includes('\0'), { error: 'must be a path' })
    .transform((value) => resolve(folder, value));
}

/** A program, which must not depend on where the configuration lies. */
function absolutePath() {
  const allowed = 'must be an absolute path';
  return z
    .string({ error: allowed })
    .refine((value) => isAbsolute(value) && !value.includes('\0'), { error: allowed });
}

function argument() {
  const allowed = 'must be text';
  return z.string({ error: allowed }).refine((value) => !value.includes('\0'), { error: allowed });
}

function wholeNumber(least: number, most: number) {
  const allowed = `must be a whole number from ${least} to ${most}`;
  return z.int({ error: allowed }).min(least, { error: allowed }).max(most, { error: allowed });
}

function shortPath(path: ReturnType<typeof pathIn>, limitBytes: number) {
  return path.superRefine((value, context) => {
    const bytes = Buffer.byteLength(value);
    if (bytes <= limitBytes) return;
    context.addIssue({
      code: 'custom',
      message: `must be a path of at most ${limitBytes} bytes, not ${bytes}, for unix sockets`,
    });
  });
}

function address() {
  const given = (input: unknown) => (input === undefined ? 'must be given' : 'must be an address');
  return z.string({ error: (issue) => given(issue.input) }).transform((value, context) => {
    try {
      return parseAddress(value);
    } catch {
      context.addIssue({
        code: 'custom',
        message: `must be an address such as 10.0.0.1:7443 or [fd00::1]:7443, not ${quote(value)}`,
      });
      return z.NEVER;
    }
  });
}

function dataAddress() {
  const allowed = 'must be the name or IP address of this host, without a port';
  return z.string({ error: allowed }).transform((value, context) => {
    const host = readHost(value);
    if (host !== undefined && !isWildcard(host)) return host;
    context.addIssue({ code: 'custom', message: `${allowed}, not ${quote(value)}` });
    return z.NEVER;
  });
}

/** A host alone: what it is once a port is put behind it. */
function readHost(value: string): string | undefined {
  try {
    const { host } = parseAddress(value.includes(':') ? `[${value}]:1` : `${value}:1`);
    return host;
  } catch {
    return undefined;
  }
}

function portRange() {
  const allowed = 'must be ports such as 49500-49599';
  return z.union([z.string(), z.number()], { error: allowed }).transform((value, context) => {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(value));
    const first = Number(match?.[1]);
    const last = Number(match?.[2] ?? match?.[1]);
    if (match && first >= 1 && last <= 65_535 && first <= last) return { first, last };
    context.addIssue({ code: 'custom', message: `${allowed}, not ${quote(value)}` });
    return z.NEVER;
  });
}

function uidRange() {
  const allowed = 'must be user ids from 1000 on such as 400000-465535';
  return z.string({ error: allowed }).transform((value, context) => {
    const match = /^(\d{1,10})-(\d{1,10})$/.exec(value);
    const [first, last] = [Number(match?.[1]), Number(match?.[2])];
    if (first >= LEAST_UID && last <= GREATEST_UID && first <= last) return { first, last };
    context.addIssue({ code: 'custom', message: `${allowed}, not ${quote(value)}` });
    return z.NEVER;
  });
}

function isGroup({ value }: { readonly value: unknown }): boolean {
  return typeof value === 'object' && value !== null;
}
