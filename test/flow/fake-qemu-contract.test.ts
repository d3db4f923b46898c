import { describe } from 'vitest';
import { FakeLauncher } from '../support/fake-qemu.js';
import { declareContract } from '../support/qmp-contract/declare.js';

describe('the fake QEMU', () => {
  declareContract(() => ({
    launcher: new FakeLauncher({ idle: true }),
    binary: '/fake/qemu-system-x86_64',
  }));
});
