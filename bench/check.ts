import { judgeGoal, readGoals, showLimit, verdictOf } from './report/goals.js';
import { readNewestResults } from './report/results.js';

/* Compares the newest results with the goals: a line for each, and a miss is an error. */

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function check(): boolean {
  const results = readNewestResults();
  if (!results) {
    say('There are no results yet: run npm run bench.');
    return false;
  }
  say(`results of ${results.date}, Drover ${results.drover}, QEMU ${results.qemu}`);
  let met = results.faults.length === 0;
  for (const fault of results.faults) say(`WRONG     ${fault}`);
  for (const goal of readGoals()) {
    const result = judgeGoal(goal, results);
    const { worst, missed, checked } = result;
    met &&= result.met;
    const figure = worst ? `${worst.text} (${worst.what})` : (goal.elsewhere?.command ?? '');
    const many = missed > 0 && checked > 1 ? `; ${missed} of ${checked} missed` : '';
    say(`${verdictOf(result).padEnd(9)} ${goal.goal} ${showLimit(goal)}: ${figure}${many}`);
  }
  return met;
}

process.exitCode = check() ? 0 : 1;
