import { cpSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import type { Binary } from '../../../src/process/binary.js';
import type { ImageFormat, ImageInfo, ImageTool } from '../../../src/process/qemu-img.js';
import { FAKE_MACHINES } from './commands-machine.js';
import { FAKE_CAPABILITIES } from './commands-migration.js';

/**
 * An image tool whose images are sparse files of the virtual size, whatever the format: what fake
 * QEMUs read.
 */
export class FakeImageTool implements ImageTool {
  async create(path: string, _format: ImageFormat, sizeBytes: number): Promise<void> {
    writeFileSync(path, '');
    truncateSync(path, sizeBytes);
  }

  async convert(from: string, _fromFormat: ImageFormat, to: string): Promise<void> {
    cpSync(from, to);
  }

  async grow(path: string, _format: ImageFormat, sizeBytes: number): Promise<void> {
    truncateSync(path, sizeBytes);
  }

  async info(path: string): Promise<ImageInfo> {
    const { size, blocks } = statSync(path);
    return {
      virtualSizeBytes: size,
      allocatedBytes: blocks * 512,
      hasBackingFile: false,
      hasDataFile: false,
    };
  }
}

/** A QEMU binary that is known without being asked. */
export function fakeBinary(changes: Partial<Binary> = {}): Binary {
  return {
    path: '/usr/bin/qemu-system-x86_64',
    facts: {
      version: { major: 10, minor: 0, micro: 2 },
      machines: FAKE_MACHINES,
      cpuModels: new Set(['base', 'max', 'qemu64']),
      features: {
        exitOnError: true,
        blockJobChange: true,
        setActive: true,
        migrationCapabilities: FAKE_CAPABILITIES,
      },
    },
    problems: [],
    expandCpu: async ({ model }) => ({
      model: 'base',
      properties: { family: 6, 'model-id': model, lm: true, sse2: true },
      missingFeatures: [],
    }),
    ...changes,
  };
}
