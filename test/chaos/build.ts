import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

/** Where runs keep their results and evidence. */
export function chaosFolder(): string {
  return join(process.env['DROVER_CACHE'] ?? join(CHECKOUT, '.cache'), 'chaos');
}

/**
 * Compiles the agent under test without checking its types, which others do, because agents are started by the thousand and compiling at each
 * start is slow. It lies inside the checkout, where the packages are found.
 *
 * @returns The path of its main module.
 */
export async function buildAgent(): Promise<string> {
  const out = join(CHECKOUT, '.cache', 'chaos', `build-${process.pid}`);
  // Others may change the code meanwhile: what a run began with, it ends with.
  process.once('exit', () => rmSync(out, { recursive: true, force: true }));
  await mkdir(out, { recursive: true });
  const config = join(out, 'tsconfig.json');
  const settings = {
    extends: join(CHECKOUT, 'tsconfig.json'),
    compilerOptions: {
      noCheck: true,
      rootDir: CHECKOUT,
      outDir: out,
      declaration: false,
      sourceMap: true,
    },
    include: [join(CHECKOUT, 'src')],
    files: [join(CHECKOUT, 'test/chaos/agent.ts')],
  };
  await writeFile(config, JSON.stringify(settings));
  const compiler = join(CHECKOUT, 'node_modules', '.bin', 'tsc');
  await promisify(execFile)(compiler, ['-p', config], { cwd: CHECKOUT });
  await mkdir(join(out, 'src', 'gen'), { recursive: true });
  await copyFile(
    join(CHECKOUT, 'src/gen/descriptor.binpb'),
    join(out, 'src', 'gen', 'descriptor.binpb'),
  );
  // Modules of src look for it two folders up.
  await copyFile(join(CHECKOUT, 'package.json'), join(out, 'package.json'));
  return join(out, 'test', 'chaos', 'agent.js');
}
