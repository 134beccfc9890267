;; SPDX-License-Identifier: Apache-2.0
;;
;; Ruby's objects have the same number outside as inside.

(module
	(func (export "resource_drop_js-abi-value") (param i32))
	(func (export "resource_new_rb-abi-value") (param i32) (result i32) (local.get 0))
	(func (export "resource_get_rb-abi-value") (param i32) (result i32) (local.get 0)))
