// SPDX-License-Identifier: Apache-2.0

// A guest that answers HTTP: what it is sent, in capitals.
addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname, search } = new URL(request.url);
  return new Response(`JavaScript ${pathname}${search} ${(await request.text()).toUpperCase()}`);
}
