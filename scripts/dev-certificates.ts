import { identityUri, makeAuthority, makeLeaf, writeAuthority, writePair } from './certificates.js';

/*
 * Makes certificates for development: a CA, one certificate for each host named, and one for an
 * operator.
 *
 * npx tsx scripts/dev-certificates.ts certs host-a host-b
 */

const OPERATOR = 'admin';
/** File names that are not for hosts. */
const RESERVED = ['ca', 'operator'];

/** Makes the whole profile and tells about it line by line. */
export async function makeDevelopmentProfile(
  directory: string,
  hosts: readonly string[],
  say: (line: string) => void = () => {},
): Promise<void> {
  const authority = await makeAuthority('Drover development CA');
  await writeAuthority(directory, authority);
  say(`${directory}/ca.crt  the CA; ca.key signs more certificates, keep it to yourself`);
  const identities = [
    ...hosts.map((name) => ({ role: 'host', name }) as const),
    { role: 'operator', name: OPERATOR } as const,
  ];
  for (const { role, name } of identities) {
    const uri = identityUri(role, name);
    const pair = await makeLeaf(authority, { commonName: name, uris: [uri] });
    await writePair(directory, role === 'operator' ? 'operator' : name, pair);
    say(`${directory}/${role === 'operator' ? 'operator' : name}.crt  ${uri}`);
  }
}

if (import.meta.filename === process.argv[1]) {
  const [directory, ...hosts] = process.argv.slice(2);
  if (!directory || hosts.length === 0 || hosts.some((name) => RESERVED.includes(name))) {
    console.error('Usage: npx tsx scripts/dev-certificates.ts DIR HOST...');
    console.error(`A host cannot be named ${RESERVED.join(' or ')} here.`);
    process.exitCode = 2;
  } else {
    await makeDevelopmentProfile(directory, hosts, console.log);
  }
}
