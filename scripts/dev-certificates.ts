import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { initAuthority } from '../src/pki/authority.js';
import { issue } from '../src/pki/issue.js';
import { CA_FILES } from '../src/pki/names.js';
import type { Role } from '../src/rpc/identity.js';

/*
 * Makes certificates for development: a CA, one certificate for each host named, and one for a
 * caller of each kind. Running it again renews them.
 *
 * npx tsx scripts/dev-certificates.ts certs alpha beta
 */

const TRUST_DOMAIN = 'drover.test';
/** Nobody renews certificates of a checkout in time. */
const DAYS = 825;
const CALLERS: readonly { readonly role: Role; readonly name: string }[] = [
  { role: 'operator', name: 'admin' },
  { role: 'scheduler', name: 'batch' },
  { role: 'observer', name: 'monitor' },
];

const [directory, ...hosts] = process.argv.slice(2);
if (!directory || hosts.length === 0) {
  console.error('Usage: npx tsx scripts/dev-certificates.ts DIR HOST...');
  process.exitCode = 2;
} else {
  if (!existsSync(join(directory, CA_FILES.certificate))) {
    const made = await initAuthority({ directory, trustDomain: TRUST_DOMAIN, days: DAYS });
    console.log(`${made.certificateFile}  the CA; ca.key signs more certificates`);
  }
  for (const who of [...hosts.map((name) => ({ role: 'host', name })), ...CALLERS]) {
    const issued = await issue({ directory, days: DAYS, ...who });
    console.log(`${issued.certificateFile}  ${issued.uri}`);
  }
}
