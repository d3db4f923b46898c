import { beforeAll, describe } from 'vitest';
import { findOnPath } from '../../src/process/binary.js';
import { DetachedLauncher } from '../../src/process/detached-launcher.js';
import { declareContract } from '../support/qmp-contract/declare.js';

describe('the real QEMU', () => {
  let binary = '';
  beforeAll(async () => {
    binary = (await findOnPath('qemu-system-x86_64')) ?? '';
  });
  declareContract(() => ({ launcher: new DetachedLauncher(), binary }));
});
