import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

/**
 * The packages and files that a file loads when it is loaded itself; types and `import()` load
 * nothing.
 */
function staticImports(file: URL): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/^(?:import|export)\s(?!type\b)(?:[^;]*?\sfrom\s+)?'([^']+)';/gm)].map(
    (match) => match[1] ?? '',
  );
}

function packagesOf(entry: URL): Set<string> {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: URL) => {
    if (seen.has(file.href)) return;
    seen.add(file.href);
    for (const name of staticImports(file)) {
      if (name.startsWith('.')) visit(new URL(name.replace(/\.js$/, '.ts'), file));
      else if (!name.startsWith('node:')) packages.add(name);
    }
  };
  visit(entry);
  return packages;
}

describe('drover --help', () => {
  it('is fast because nothing but commander is loaded before a command runs', () => {
    const packages = packagesOf(new URL('../../../src/main.ts', import.meta.url));
    expect([...packages]).toEqual(['commander']);
  });

  it('would be slow if gRPC were: the check sees what the connection loads', () => {
    const packages = packagesOf(new URL('../../../src/cli/connect.ts', import.meta.url));
    expect([...packages]).toContain('@grpc/grpc-js');
  });
});
