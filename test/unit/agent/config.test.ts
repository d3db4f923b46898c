import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadConfig, parseConfig } from '../../../src/agent/config.js';
import { DEFAULT_LIMITS } from '../../../src/agent/limits.js';
import { DEFAULT_LINK } from '../../../src/migration/traffic.js';
import { ReasonedError } from '../../../src/util/reasoned-error.js';

const TLS = 'tls: {certificate: c.pem, key: k.pem, ca: ca.pem}';
const BARE = `host: host-a\n${TLS}\n`;
const MINIMAL = `${BARE}data: {address: 10.0.0.1}\n`;
const parse = (text: string) => parseConfig(text, '/etc/drover/agent.yaml');

/** The violations of a text, without the name of the file. */
function violations(text: string): string[] {
  try {
    parse(text);
  } catch (error) {
    expect(error).toBeInstanceOf(ReasonedError);
    expect((error as ReasonedError).reason).toBe('CONFIG_INVALID');
    expect((error as ReasonedError).message).toMatch(/^\/etc\/drover\/agent\.yaml is wrong: /);
    return (error as ReasonedError).violations.map(({ message }) => message);
  }
  return [];
}

describe('the configuration of an agent', () => {
  it('needs a host, certificates and an address only', () => {
    expect(parse(MINIMAL)).toEqual({
      host: 'host-a',
      listen: { address: '0.0.0.0:7443', unix: '/run/drover/drover.sock' },
      tls: {
        certificate: '/etc/drover/c.pem',
        key: '/etc/drover/k.pem',
        ca: '/etc/drover/ca.pem',
      },
      directories: { state: '/var/lib/drover', run: '/run/drover' },
      data: { address: '10.0.0.1', ports: { first: 49500, last: 49599 }, streamPort: 7444 },
      pools: [],
      kernels: [],
      networks: { bridges: [], user: false },
      peers: [],
      limits: DEFAULT_LIMITS,
      link: DEFAULT_LINK,
      qemu: { uids: { first: 400_000, last: 465_535 } },
    });
  });

  it('takes the example of the docs', async () => {
    const path = fileURLToPath(new URL('../../../docs/agent.example.yaml', import.meta.url));
    const config = await loadConfig(path);
    expect(config.pools.map(({ name, shared }) => ({ name, shared }))).toEqual([
      { name: 'default', shared: false },
      { name: 'nfs', shared: true },
    ]);
    expect(config.kernels).toEqual([
      {
        name: 'linux',
        kernel: '/var/lib/drover/kernels/vmlinuz',
        initrd: '/var/lib/drover/kernels/initrd.img',
        arguments: 'console=ttyS0',
      },
    ]);
  });

  it('has every key in the example, and every default as the comments say', async () => {
    const path = fileURLToPath(new URL('../../../docs/agent.example.yaml', import.meta.url));
    const text = await readFile(path, 'utf8');
    const minimal = parse(MINIMAL);
    expect(text).toContain(`Default: ${minimal.listen.address}`);
    expect(text).toContain(`Default: ${minimal.listen.unix}`);
    expect(text).toContain(`Default: ${minimal.directories.state}`);
    expect(text).toContain(`Default: ${minimal.directories.run}`);
    expect(text).toContain(`Default: ${minimal.data.ports.first}-${minimal.data.ports.last}`);
    expect(text).toContain(`Default: ${minimal.qemu.uids.first}-${minimal.qemu.uids.last}`);
    const { fence } = parse(`${MINIMAL}fence: {command: /bin/true}`);
    expect(fence).toEqual({ command: '/bin/true', arguments: [], limitMs: 60_000 });
    expect(text).toContain(`Default: ${fence?.limitMs}`);
    const keys = Object.entries({ ...minimal, fence: {} }).flatMap(([key, value]) =>
      Array.isArray(value) || typeof value === 'string' ? [key] : [key, ...Object.keys(value)],
    );
    const written = keys.map((key) =>
      key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    );
    for (const key of written) expect(text).toMatch(new RegExp(`^\\s*${key}:`, 'm'));
  });

  it('takes a fence command with its arguments, and refuses what could not be run', () => {
    const fenced = (text: string) => `${MINIMAL}fence: {${text}}`;
    expect(
      parse(fenced('command: /bin/fence, arguments: [--off, "2"], limit_ms: 500')).fence,
    ).toEqual({
      command: '/bin/fence',
      arguments: ['--off', '2'],
      limitMs: 500,
    });
    expect(violations(fenced('command: fence'))).toEqual([
      expect.stringMatching(/fence.command must be an absolute path/),
    ]);
    expect(violations(fenced('arguments: []'))).toEqual([
      expect.stringMatching(/fence.command must be an absolute path/),
    ]);
    for (const limit of ['0', '600001', '1.5', 'soon']) {
      expect(violations(fenced(`command: /bin/fence, limit_ms: ${limit}`))).toEqual([
        expect.stringMatching(/fence.limit_ms must be a whole number from 1 to 600000/),
      ]);
    }
  });

  it('takes the host of the listen address for the data ports when that is one address', () => {
    expect(parse(`${BARE}listen: {address: 10.0.0.2}`).data.address).toBe('10.0.0.2');
    expect(parse(`${BARE}listen: {address: "[fd00::1]"}`).data.address).toBe('fd00::1');
    const both = parse(`${BARE}listen: {address: 10.0.0.1}\ndata: {address: fd00::2}`);
    expect(both.data.address).toBe('fd00::2');
  });

  it('takes a range of users for QEMU, and none that may be a person or the system', () => {
    const uids = (text: string) => `${MINIMAL}qemu: {uids: ${text}}`;
    expect(parse(uids('1000-4294967294')).qemu.uids).toEqual({ first: 1000, last: 2 ** 32 - 2 });
    for (const text of ['999-2000', '2000-1000', '400000', '1000-4294967295', '5', '-1-2000']) {
      expect(violations(uids(text))).toEqual([
        expect.stringMatching(/qemu.uids must be user ids from 1000 on such as 400000-465535/),
      ]);
    }
  });

  it('takes port 7443 where an address has none', () => {
    const config = parse(`${MINIMAL}peers: [{name: host-b, address: 10.0.0.2}]`);
    expect(config.peers).toEqual([{ name: 'host-b', address: '10.0.0.2:7443' }]);
  });

  it('leaves out the entry of peers that is the host itself', () => {
    const peers = '[{name: host-a, address: 10.0.0.1}, {name: host-b, address: "[fd00::2]:1"}]';
    expect(parse(`${MINIMAL}peers: ${peers}`).peers).toEqual([
      { name: 'host-b', address: '[fd00::2]:1' },
    ]);
  });

  it('resolves relative paths against the folder of the file', () => {
    const config = parse(`${MINIMAL}directories: {state: ../state, run: /run/x}`);
    expect(config.directories).toEqual({ state: '/etc/state', run: '/run/x' });
  });

  it.each([
    [
      'an empty file',
      '',
      [
        'line 1: host must be given',
        'line 1: tls must be a group of fields',
        'line 1: data.address must be given, because the agent listens on all addresses',
      ],
    ],
    ['a list', '- a', ['line 1: the file must be a group of fields']],
    [
      'a typo',
      `${MINIMAL}listen:\n  adress: 10.0.0.1`,
      ['line 5: listen has the unknown key `adress`; did you mean `address`?'],
    ],
    [
      'an unknown key',
      `${MINIMAL}colour: red`,
      [
        'line 4: the file has the unknown key `colour`; known are host, listen, tls, ' +
          'directories, data, pools, kernels, networks, peers, fence, limits, link, qemu',
      ],
    ],
    [
      'a host name with a slash',
      `host: a/b\n${TLS}\ndata: {address: a}`,
      [
        'line 1: host must be the name of a host: up to 63 letters, digits, `.`, `_` or ' +
          '`-`, not first a sign, not "a/b"',
      ],
    ],
    [
      'a missing certificate',
      'host: host-a\ntls: {key: k, ca: c}\ndata: {address: a}',
      ['line 2: tls.certificate must be given'],
    ],
    [
      'an empty path',
      'host: a\ntls: {certificate: "", key: k, ca: c}\ndata: {address: a}',
      ['line 2: tls.certificate must be a path'],
    ],
    [
      'a path that is none',
      'host: a\ntls: {certificate: 1, key: k, ca: c}\ndata: {address: a}',
      ['line 2: tls.certificate must be a path'],
    ],
    [
      'an address with a bad port',
      `${MINIMAL}listen: {address: "10.0.0.1:70000"}`,
      [
        'line 4: listen.address must be an address such as 10.0.0.1:7443 or ' +
          '[fd00::1]:7443, not "10.0.0.1:70000"',
      ],
    ],
    [
      'an address that is a number',
      `${MINIMAL}listen: {address: 7443}`,
      ['line 4: listen.address must be an address'],
    ],
    [
      'a socket path over 107 bytes',
      `${MINIMAL}listen: {unix: /${'x'.repeat(107)}}`,
      ['line 4: listen.unix must be a path of at most 107 bytes, not 108, for unix sockets'],
    ],
    [
      'a run directory too long for the sockets in it',
      `${MINIMAL}directories: {run: /${'x'.repeat(49)}}`,
      ['line 4: directories.run must be a path of at most 49 bytes, not 50, for unix sockets'],
    ],
    [
      'ports the wrong way round',
      `${BARE}data: {address: a, ports: 49599-49500}`,
      ['line 3: data.ports must be ports such as 49500-49599, not "49599-49500"'],
    ],
    [
      'listening on all addresses without an address for data',
      `${BARE}listen: {address: "[::]:7443"}`,
      ['line 1: data.address must be given, because the agent listens on all addresses'],
    ],
    [
      'ports around the listening one',
      `${BARE}data: {address: a, ports: 7000-8000}`,
      ['line 3: data.ports must not contain 7443, which the agent listens on'],
    ],
    [
      'a port for streams among the data ports',
      `${BARE}data: {address: a, stream_port: 49500}`,
      ['line 3: data.stream_port must not be 49500, which is one of data.ports'],
    ],
    [
      'a port for streams that the agent listens on',
      `${BARE}data: {address: a, stream_port: 7443}`,
      ['line 3: data.stream_port must be another port than 7443'],
    ],
    [
      'no port for streams where the next one is none',
      `${BARE}listen: {address: "10.0.0.1:65535"}`,
      ['line 1: data.stream_port must be another port than 65536'],
    ],
    [
      'a data address with a port',
      `${BARE}data: {address: "10.0.0.1:49500"}`,
      [
        'line 3: data.address must be the name or IP address of this host, without a ' +
          'port, not "10.0.0.1:49500"',
      ],
    ],
    [
      'a data address that is no address',
      `${BARE}data: {address: 0.0.0.0}`,
      [
        'line 3: data.address must be the name or IP address of this host, without a ' +
          'port, not "0.0.0.0"',
      ],
    ],
    [
      'pools that are no list',
      `${MINIMAL}pools: {name: a}`,
      ['line 4: pools must be a list of pools'],
    ],
    [
      'a pool with too little and too much',
      `${MINIMAL}pools:\n  - name: a\n    size: 1\n`,
      [
        'line 5: pools[0].path must be given',
        'line 6: pools[0] has the unknown key `size`; known are name, path, shared',
      ],
    ],
    [
      'a name twice',
      `${MINIMAL}pools:\n  - {name: a, path: /a}\n  - {name: a, path: /b}`,
      ['line 6: pools[1].name must be another one: "a" is there already'],
    ],
    [
      'a kernel without a file',
      `${MINIMAL}kernels: [{name: linux}]`,
      ['line 4: kernels[0].kernel must be given'],
    ],
    [
      'a peer without an address',
      `${MINIMAL}peers: [{name: host-b}]`,
      ['line 4: peers[0].address must be given'],
    ],
  ])('refuses %s, with the line', (_what, text, expected) => {
    expect(violations(text)).toEqual(expected);
  });

  it('tells everything at once, in the order of the file', () => {
    const text = 'host: ""\nlisten: {adress: a}\ntls: {}\npools: [{name: a, path: b}, {name: a}]\n';
    expect(violations(text).map((message) => message.split(' ').slice(0, 3).join(' '))).toEqual([
      'line 1: host',
      'line 1: data.address',
      'line 2: listen',
      'line 3: tls.certificate',
      'line 3: tls.key',
      'line 3: tls.ca',
      'line 4: pools[1].path',
      'line 4: pools[1].name',
    ]);
  });

  it('refuses what is no YAML', () => {
    expect(violations('host: [')[0]).toMatch(/^line \d+: /);
  });

  it('says that a file is not there', async () => {
    await expect(loadConfig('/nonexistent/agent.yaml')).rejects.toMatchObject({
      reason: 'CONFIG_INVALID',
      message: 'The configuration /nonexistent/agent.yaml is not there.',
    });
    await expect(loadConfig('/')).rejects.toMatchObject({
      message: 'The configuration / cannot be read (EISDIR).',
    });
  });
});
