/** The fake QEMU for tests that must not start a real one: what tests use of it. */
export { die, dropMonitors, hold, refuse } from './fake-qemu/faults.js';
export { FakeImageTool, fakeBinary } from './fake-qemu/host-tools.js';
export { FakeLauncher } from './fake-qemu/launcher.js';
export { judgeFakeGuest } from './fake-qemu/verdict.js';
