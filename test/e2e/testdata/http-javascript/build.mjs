// SPDX-License-Identifier: Apache-2.0

// Makes app.wasm of app.js and a directory of WIT, the argument.
import { componentize } from '@bytecodealliance/componentize-js';
import { readFile, writeFile } from 'node:fs/promises';

const options = { witPath: process.argv[2], worldName: 'bindings' };
const { component } = await componentize(await readFile('app.js', 'utf8'), options);
await writeFile('app.wasm', component);
