import { InvalidArgumentError } from 'commander';
import { CA_DAYS, LEAF_DAYS, MOST_DAYS, PKI_DIRECTORY, TRUST_DOMAIN } from '../pki/names.js';
import type { AddCommand } from './command.js';
import { EXIT } from './exit-codes.js';
import { renderInspections, renderIssued, renderMade } from './pki-view.js';

/** `drover pki`. */
export const addPki: AddCommand = (program, run) => {
  const pki = program
    .command('pki')
    .summary('Make certificates, and look at them')
    .description('Make certificates for agents and their callers, and look at them.');
  addInit(pki, run);
  addIssue(pki, run);
  addShow(pki, run);
};

const addInit: AddCommand = (pki, run) => {
  const command = pki
    .command('init')
    .summary('Make a CA')
    .description(
      'Make the CA of a fleet: ca.crt, which all may have, and ca.key, which nobody may.',
    )
    .argument('[dir]', 'its folder', PKI_DIRECTORY)
    .option('--trust-domain <name>', 'the name of the fleet, in all its certificates', TRUST_DOMAIN)
    .option('--days <n>', 'how long it lives', readDays, CA_DAYS)
    .addHelpText(
      'after',
      `
Whoever has ca.key can be any host and any operator: keep the folder off the
hosts, best where no network is. A CA that is there is never replaced.

Example:
  $ drover pki init
  $ drover pki issue host alpha`,
    );
  command.action((directory: string, options: { trustDomain: string; days: number }) =>
    run(command, async (session) => {
      const { initAuthority } = await import('../pki/authority.js');
      const made = await initAuthority({ directory, ...options });
      session.print({ authority: made }, () => renderMade(made, directory));
      return undefined;
    }),
  );
};

interface IssueOptions {
  readonly days?: number;
  readonly dir: string;
  readonly out?: string;
  readonly csr?: string;
  readonly trustDomain?: string;
}

const addIssue: AddCommand = (pki, run) => {
  const command = pki
    .command('issue')
    .summary('Issue a certificate, or renew it')
    .description('Issue a certificate with a new key, or renew one.')
    .argument('<role>', 'host, scheduler, operator or observer')
    .argument('<name>', "the host's name as in its configuration, or the caller's")
    .option(
      '--days <n>',
      `how long it lives (default: ${LEAF_DAYS.host} for hosts, ${LEAF_DAYS.caller} for callers)`,
      readDays,
    )
    .option('--dir <dir>', 'the folder of the CA', PKI_DIRECTORY)
    .option('--out <dir>', 'where the files go (default: ROLE-NAME in the folder of the CA)')
    .option('--csr <file>', 'sign this request; the key stays where it is')
    .option('--trust-domain <name>', 'where the CA does not name it')
    .addHelpText(
      'after',
      `
Writes certificate.pem, key.pem and ca.pem: copy them to /etc/drover of the
host, or to ~/.config/drover of the caller. The same command renews: an agent
takes the new files within seconds, and nothing has to be restarted.

Of a request (PKCS #10) only the key is taken, not the names in it.

Examples:
  $ drover pki issue host alpha
  $ drover pki issue operator alice --out ~/.config/drover
  $ drover pki issue host beta --csr beta.csr`,
    );
  command.action((role: string, name: string, options: IssueOptions) =>
    run(command, async (session) => {
      const { dir: directory, out: outDirectory, csr: requestFile, days, trustDomain } = options;
      const { issue } = await import('../pki/issue.js');
      const settings = { directory, role, name, days, outDirectory, requestFile, trustDomain };
      const issued = await issue(settings);
      if (issued.cut) session.note('The CA ends before: the certificate ends with it.');
      session.print({ certificate: issued }, () => renderIssued(issued));
      return undefined;
    }),
  );
};

const addShow: AddCommand = (pki, run) => {
  const command = pki
    .command('show')
    .summary('Show certificates and what is wrong with them')
    .description('Show certificates, whoever issued them, and what is wrong with them.')
    .argument('[path...]', 'certificate files, or folders of them', [PKI_DIRECTORY])
    .addHelpText(
      'after',
      `
A key is looked for beside the certificate (key.pem, NAME.key), and so is the
CA (ca.pem, ca.crt). The exit code is 1 where something is wrong.

Examples:
  $ drover pki show
  $ drover pki show /etc/drover
  $ drover pki show --json | jq '.certificates[] | select(.days_left < 14)'`,
    );
  command.action((paths: string[]) =>
    run(command, async (session) => {
      const { inspect } = await import('../pki/inspect.js');
      const certificates = await inspect(paths);
      session.print({ certificates }, (page) => renderInspections(certificates, page));
      return certificates.some(({ problems }) => problems.length > 0) ? EXIT.failed : EXIT.ok;
    }),
  );
};

function readDays(text: string): number {
  const days = Number(text);
  if (/^\d+$/.test(text) && days >= 1 && days <= MOST_DAYS) return days;
  throw new InvalidArgumentError(`Give 1 to ${MOST_DAYS} days.`);
}
