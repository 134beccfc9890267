// SPDX-License-Identifier: Apache-2.0

// Package abi holds what pins the C contract: the list of symbols that
// libwasmshim.a exports, and the tests of the header, of the library and of
// the runner that it makes of an engine.
package abi
