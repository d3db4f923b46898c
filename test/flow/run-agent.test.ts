import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { runAgent } from '../../src/agent/run.js';
import { makeTestCertificates } from '../support/certificates.js';

it('refuses a certificate of another host before anything is started', async () => {
  const certificates = await makeTestCertificates();
  onTestFinished(() => certificates[Symbol.asyncDispose]());
  const { certificate, key, ca } = await certificates.host('host-b');
  const file = join(certificates.directory, 'agent.yaml');
  const text = [
    'host: host-a',
    'listen: {address: "127.0.0.1:7443", unix: agent.sock}',
    `tls: {certificate: ${certificate}, key: ${key}, ca: ${ca}}`,
  ];
  await writeFile(file, text.join('\n'));
  const listenersNow = () => ['SIGTERM', 'SIGHUP'].map((name) => process.listenerCount(name));
  const listeners = listenersNow();
  const ready: object[] = [];
  await expect(runAgent(file, (where) => ready.push(where))).rejects.toMatchObject({
    reason: 'CONFIG_INVALID',
    message: 'host is "host-a", but the certificate names the host "host-b".',
  });
  expect(ready).toEqual([]);
  expect(listenersNow()).toEqual(listeners);
});
