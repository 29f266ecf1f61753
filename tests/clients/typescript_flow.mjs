// Works in a sandbox with VoidRun's TypeScript SDK, and prints what came of it as JSON.
//
//   node typescript_flow.mjs SDK BASE_URL API_KEY
//
// SDK is the file that the package exports as an ES module. `uncalled` lists the public methods that were never called.

import { pathToFileURL } from 'node:url';
import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [sdk, baseUrl, apiKey] = process.argv.slice(2);
const { VoidRun, FileWatcher, PtySession } = await import(pathToFileURL(sdk));

const called = new Set();
const methods = new Set();

// What TypeScript's `private` and the `_` hide at compile time is there at run time, but not for users.
const hidden = ['constructor', 'buildCommand', 'parseResults', 'executeStreaming', '_execStream'];

/** Note the calls of every public method of a class. */
function note(kind) {
  for (const name of Object.getOwnPropertyNames(kind.prototype).filter((each) => !hidden.includes(each))) {
    const method = kind.prototype[name];
    methods.add(`${kind.name}.${name}`);
    kind.prototype[name] = function (...values) {
      called.add(`${kind.name}.${name}`);
      return method.apply(this, values);
    };
  }
}

async function until(condition) {
  for (let tries = 0; !condition(); tries++) {
    if (tries > 3000) throw new Error(`never: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const heard = () => ({ stdout: '', stderr: '', exits: [], errors: [] });
const handlers = (of) => ({
  onStdout: (text) => (of.stdout += text),
  onStderr: (text) => (of.stderr += text),
  onExit: (told) => of.exits.push(told.exitCode),
  onError: (error) => of.errors.push(String(error)),
});

for (const kind of [VoidRun, FileWatcher, PtySession]) note(kind);
const client = new VoidRun({ apiKey, baseUrl });
const out = {};
const labels = { of: 'typescript' };
const box = await client.createSandbox({ name: 'site', labels, publishPorts: [8080], region: 'eu' });
for (const part of [box, box.fs, box.pty, box.commands, box.interpreter]) note(part.constructor);
try {
  out.made = { ports: box.publishPorts, labels: box.labels, region: box.region, status: box.status };
  out.info = (await box.info()) === box;
  out.got = (await client.getSandbox(box.id)).name;
  const listed = await client.listSandboxes({ page: 1, limit: 10, labels });
  out.listed = { names: listed.sandboxes.map((each) => each.name), meta: listed.meta };

  // Commands
  out.exec = (await box.exec({ command: 'echo hi; echo wrong >&2; exit 3' })).data;
  const lines = 'seq 3; echo; echo "  indented"; echo wrong >&2; exit 4';
  out.stream = heard();
  await box.execStream({ command: lines }, handlers(out.stream));
  out.execWithHandlers = heard();
  await box.exec({ command: lines }, handlers(out.execWithHandlers));
  out.code = {};
  for (const [language, code] of [
    ['python', 'print(2 + 2)'],
    ['javascript', 'console.log(2 + 2)'],
    ['typescript', 'const n: number = 4; console.log(n)'],
    ['bash', 'echo $((2 + 2))'],
  ]) {
    const { success, stdout, results } = await box.runCode(code, { language });
    out.code[language] = { success, stdout, results };
  }
  const shown = heard();
  const streamed = await box.interpreter.runCode('for n in range(3):\n print(n)', { onStdout: handlers(shown).onStdout });
  out.streamedCode = { stdout: streamed.stdout, shown: shown.stdout };

  // Background commands
  const ran = await box.commands.run('echo begun; sleep 1; echo wrong >&2; exit 5', { A: 'b' }, '/tmp');
  out.background = heard();
  await box.commands.connect(ran.pid, handlers(out.background));
  out.waited = await box.commands.wait(ran.pid);
  const forever = await box.commands.run('sleep 1000');
  const running = (await box.commands.list()).processes.filter((each) => each.running);
  out.running = running.map((each) => each.command);
  out.killed = (await box.commands.kill(forever.pid)).success;

  // Files
  const place = '/tmp/place';
  const { fs } = box;
  await fs.createDirectory(`${place}/sub`);
  const events = [];
  const watcher = await fs.watch(place, { onEvent: (event) => events.push(event), onError: console.error });
  await fs.createFile(`${place}/empty`);
  await fs.uploadFile(`${place}/text`, 'one\ntwo\n');
  await fs.uploadFileStream(`${place}/streamed`, new Blob(['a', 'b']).stream());
  await fs.uploadFileFromSource(`${place}/bytes`, new Uint8Array([0, 255]));
  const local = mkdtempSync(join(tmpdir(), 'flow-'));
  writeFileSync(join(local, 'file'), 'from a file');
  await fs.uploadFileFromPath(`${place}/from path`, join(local, 'file'));
  rmSync(local, { recursive: true });
  await fs.copyFile(`${place}/text`, `${place}/sub/copy`);
  await fs.moveFile(`${place}/sub/copy`, `${place}/sub/moved`);
  await fs.changePermissions(`${place}/sub/moved`, '600');
  out.downloads = {};
  for (const name of ['text', 'streamed', 'from path']) {
    out.downloads[name] = (await fs.downloadFile(`${place}/${name}`)).toString();
  }
  out.downloads.bytes = [...(await fs.downloadFile(`${place}/bytes`))];
  out.downloads.stream = await new Response(await fs.downloadFileStream(`${place}/text`)).text();
  const files = (await fs.listFiles(place)).data.files;
  out.files = Object.fromEntries(files.map((each) => [each.name, each.isDir]));
  const stat = (await fs.statFile(`${place}/sub/moved`)).info;
  out.stat = { path: stat.path, size: stat.size, mode: stat.mode, type: stat.type };
  out.head = (await fs.headTail(`${place}/text`, { lines: 1 })).content;
  out.found = (await fs.searchFiles(place, 'mov*')).paths;
  out.size = (await fs.folderSize(place)).info;
  const packed = await fs.compressFile(`${place}/sub`, 'tar.gz');
  out.packed = packed.archivePath;
  await fs.extractArchive(packed.archivePath, `${place}/out`);
  out.unpacked = (await fs.downloadFile(`${place}/out/sub/moved`)).toString();
  await until(() => events.some((event) => event.path === `${place}/text` && event.type === 'created'));
  watcher.close();
  out.deleted = (await fs.deleteFile(place)).data.exitCode;

  // Terminals
  out.terminal = [];
  for (let attempt = 0; attempt < 5; attempt++) {
    const pty = await box.pty.connect({ onData: () => {} });
    const text = await pty.runCommand(`echo $((${attempt} + 1000))-told`);
    out.terminal.push(text.includes(`${attempt + 1000}-told`));
    pty.close();
  }
  const { sessionId } = (await box.pty.createSession()).data;
  let screen = '';
  const session = await box.pty.connect({ sessionId, onData: (text) => (screen += text) });
  await session.resize(120, 50);
  session.sendInput('stty size\n');
  await until(() => screen.includes('50 120'));
  out.sessions = (await box.pty.list()).data.sessions.map((each) => [each.id === sessionId, each.alive, each.clients]);
  session.close();
  await box.pty.deleteSession(sessionId);

  // Published ports, sleep, the end
  out.urls = (await box.getPublicUrls()).map((each) => each.port);
  out.url = (await box.getPublicUrl(8080))?.port;
  out.statuses = [];
  for (const [fallAsleep, wakeUp] of [['sleep', 'wake'], ['stop', 'resume'], ['pause', 'start']]) {
    await box[fallAsleep]();
    out.statuses.push((await client.getSandbox(box.id)).status);
    await box[wakeUp]();
    out.statuses.push((await client.getSandbox(box.id)).status);
  }
  const other = await client.createSandbox({});
  await client.removeSandbox(other.id);
  out.missing = await client.getSandbox(other.id).catch((error) => error.message);
} finally {
  await box.remove();
}
out.uncalled = [...methods].filter((name) => !called.has(name));
console.log(JSON.stringify(out));
