import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const tracked = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((path) => path && existsSync(join(root, path)));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const generated = (path: string) => path.startsWith('src/gen/') || path.endsWith('.gen.ts');
const code = tracked.filter((path) => /\.(ts|sh|c|S)$/.test(path) && !generated(path));
const source = code.filter((path) => path.startsWith('src/') && path.endsWith('.ts'));

/** What each layer may import of ours, as in docs/architecture.md. `main` may import everything. */
const LAYERS: Record<string, readonly string[]> = {
  util: [],
  spec: ['util'],
  qmp: ['util'],
  process: ['qmp', 'util'],
  channel: ['util'],
  domain: ['process', 'qmp', 'channel', 'spec', 'util'],
  migration: ['domain', 'channel', 'util'],
  mesh: ['migration', 'util'],
  rpc: ['migration', 'mesh', 'domain', 'channel', 'spec', 'gen', 'util'],
  // Of rpc only what an identity is.
  pki: ['rpc', 'util'],
  cli: ['rpc', 'gen', 'spec', 'agent', 'pki', 'util'],
  agent: ['rpc', 'mesh', 'migration', 'domain', 'process', 'qmp', 'channel', 'spec', 'gen', 'util'],
  gen: [],
};

/** Modules of Node that only one layer may import. */
const RESERVED: readonly { module: string; layers: readonly string[] }[] = [
  { module: 'node:child_process', layers: ['process'] },
  { module: 'nice-grpc', layers: ['rpc'] },
  { module: '@grpc/grpc-js', layers: ['rpc'] },
  { module: '@peculiar/x509', layers: ['pki'] },
];

/** Tables of data, which read best in one place however long they are. */
const TABLES: readonly string[] = ['src/util/reasons.ts'];

function imports(path: string): string[] {
  return [...read(path).matchAll(/(?:from|import\()\s*'([^']+)'/g)].map((match) => match[1] ?? '');
}

function layerOf(path: string): string {
  return path.split('/')[1] ?? '';
}

describe('the tree', () => {
  it('keeps every file of src within 300 lines', () => {
    const long = source.filter((path) => read(path).trimEnd().split('\n').length > 300);
    expect(long.filter((path) => !TABLES.includes(path))).toEqual([]);
  });

  // A message stays in one piece, so that it can be searched for; and the names of tests are sentences.
  it('keeps every line of code outside of tests within 100 columns', () => {
    const wide = code
      .filter((path) => !path.startsWith('test/'))
      .flatMap((path) =>
        read(path)
          .split('\n')
          .flatMap((line, index) =>
            line.length > 100 && !/^\s*['`]/.test(line) ? [`${path}:${index + 1}`] : [],
          ),
      );
    expect(wide).toEqual([]);
  });

  it('imports only downwards through the layers', () => {
    const wrong = source.flatMap((path) => {
      const layer = layerOf(path);
      if (!(layer in LAYERS)) return [];
      return imports(path)
        .filter((name) => name.startsWith('.'))
        .map((name) => layerOf(normalize(join(dirname(path), name))))
        .filter((to) => to !== layer && !LAYERS[layer]?.includes(to))
        .map((to) => `${path} imports ${to}`);
    });
    expect(wrong).toEqual([]);
  });

  it('has a row in the table for every layer', () => {
    const layers = new Set(source.map(layerOf).filter((layer) => !layer.endsWith('.ts')));
    expect([...layers].filter((layer) => !(layer in LAYERS))).toEqual([]);
  });

  it('lets only the process layer start processes, and only rpc speak gRPC', () => {
    const wrong = source.flatMap((path) =>
      RESERVED.filter(
        ({ module, layers }) =>
          imports(path).some((name) => name === module) && !layers.includes(layerOf(path)),
      ).map(({ module }) => `${path} imports ${module}`),
    );
    expect(wrong).toEqual([]);
  });

  it('keeps the two flow files short, and free of try, QMP and gRPC', () => {
    for (const path of ['src/migration/source.ts', 'src/migration/destination.ts']) {
      const text = read(path);
      expect(text.split('\n').length, path).toBeLessThan(120);
      expect(text, path).not.toMatch(/\btry\b|\bqmp\b|execute\(|grpc|\blog\b/i);
    }
  });

  it('uses the words of the table', () => {
    const wrong = source.flatMap((path) =>
      read(path)
        .split('\n')
        .flatMap((line, index) =>
          /\b(src|dst|blackout|cutover|evacuate)\b/i.test(line) && !line.includes('src/')
            ? [`${path}:${index + 1}: ${line.trim()}`]
            : [],
        ),
    );
    expect(wrong).toEqual([]);
  });

  it('links only to files that exist', () => {
    const broken = tracked
      .filter((path) => path.endsWith('.md'))
      .flatMap((path) =>
        [...read(path).matchAll(/\]\((?!https?:|#)([^)#\s]+)[^)]*\)/g)]
          .map((match) => match[1] ?? '')
          .filter((link) => !existsSync(join(root, dirname(path), link)))
          .map((link) => `${path} -> ${link}`),
      );
    expect(broken).toEqual([]);
  });

  it('commits no key, no certificate and no machine path', () => {
    expect(tracked.filter((path) => /\.(key|pem|crt|p12)$/.test(path))).toEqual([]);
    const withKey = tracked.filter(
      (path) => !/\.(binpb|bin)$/.test(path) && /BEGIN [A-Z ]*PRIVATE KEY/.test(read(path)),
    );
    expect(withKey.filter((path) => path !== 'test/tidy.test.ts')).toEqual([]);
    expect(tracked.filter((path) => read(path).includes(`${root}/`))).toEqual([]);
  });
});
