"""Every key-value call of the official Python SDK against the ekokv binary.

Run by `tests/sdk/run`. A call of the SDK that no test makes is a failure, so a newer SDK says what
is missing here.
"""

import asyncio
import json
import sys
import time
import unittest

import ekodb_client
from server import Server

BINARY = sys.argv[1]
# How long an expiry may take before a test fails.
EXPIRY_SECONDS_MAX = 30
# What the server's wall clock and the test's may differ by over a second.
CLOCK_SLACK_SECONDS = 0.05

ADA = {"name": "Ada", "age": 36, "score": 1.5, "tags": ["x", None, {"y": True}], "none": None}
AWKWARD_KEYS = [
    "plain", "a/b", "/", "a b", "%", "a%20b", "%2F", "a?b=c", "a#b", "a+b", "a:b:c", "a&b", "...",
    "🦀", "café", "nul\0byte", "get", "links", "batch", "find", "batch/get", "../etc/passwd",
]
# In `/api/kv/get/links` a verb comes first, so such a key has its links under another spelling
# (`%67et`) only, which the SDK does not send.
KEYS_WITHOUT_LINKS = {"get", "links"}

called = set()


class Client:
    """The SDK's client; it notes what is called."""

    def __init__(self, url, key):
        self._client = ekodb_client.Client.new(url, key)

    def __getattr__(self, name):
        called.add(name)
        return getattr(self._client, name)

    async def value(self, key):
        """The value that kv_get finds. It hands it out as JSON text in a dict."""
        found = await self.kv_get(key)
        return None if found is None else json.loads(found["value"])

    async def keys(self, *arguments):
        """The keys that kv_find finds."""
        return [record["key"] for record in await self.kv_find(*arguments)]


class Stories(unittest.IsolatedAsyncioTestCase):
    maxDiff = None

    def setUp(self):
        self.server = Server(BINARY)
        self.addCleanup(self.server.close)

    async def asyncSetUp(self):
        self.client = self.connect()

    def connect(self, key=None):
        return Client(self.server.url, self.server.admin_key if key is None else key)

    async def expires(self, key, begin, seconds):
        """Waits until `key`, set after `begin`, is gone; it must not be gone earlier."""
        while await self.client.kv_exists(key):
            self.assertLess(time.monotonic() - begin, EXPIRY_SECONDS_MAX, f"{key} does not expire")
            # There is nothing to wait for: expiry is seen by those who ask.
            await asyncio.sleep(0.01)
        lived = time.monotonic() - begin + CLOCK_SLACK_SECONDS
        self.assertGreaterEqual(lived, seconds, f"{key} is gone too early")

    async def test_health_tells_what_the_server_says_and_when_it_is_gone(self):
        for client in [self.client, self.connect("no such key")]:
            self.assertIs(await client.health(), True)
            health = await client.health_status()
            self.assertTrue(health.reachable)
            self.assertTrue(health.integrity_ok)
            self.assertEqual(health.status, ekodb_client.HEALTH_OK)
            self.assertIn("version", health.detail)
        self.server.stop()
        self.assertIs(await self.client.health(), False)
        self.assertFalse((await self.client.health_status()).reachable)

    async def test_a_value_comes_back_as_it_was_set_until_it_is_deleted(self):
        values = [ADA, {}, {"value": 1}, {"value": {"value": "x"}, "ttl": "1s"}, {"ttl": 1},
                  {"text": "line\nfeed \"quoted\" \\ \0 é 🦀 \u2028"}, {"n": [0, -1, 2**63 - 1]},
                  {"f": [0.1, 1e300, 5e-324, -0.5]}, {"": {"deep": [[[[{}]]]]}}]
        for number, value in enumerate(values):
            key = f"value:{number}"
            self.assertIsNone(await self.client.kv_set(key, value))
        for number, value in enumerate(values):
            key = f"value:{number}"
            self.assertEqual(await self.client.value(key), value)
            self.assertIs(await self.client.kv_exists(key), True)

        self.assertIsNone(await self.client.kv_delete("value:0"))
        self.assertIsNone(await self.client.kv_get("value:0"))
        self.assertIs(await self.client.kv_exists("value:0"), False)
        self.assertEqual(await self.client.value("value:1"), {})
        # What is not there is None, and deleting it is no error.
        await self.client.kv_delete("value:0")
        self.assertIsNone(await self.client.kv_get("never set"))

        await self.client.kv_set("value:1", {"n": 2})
        self.assertEqual(await self.client.value("value:1"), {"n": 2})

    async def test_every_key_is_itself_in_paths_and_in_bodies(self):
        keys = [*AWKWARD_KEYS, "k" * 1024]
        for key in keys:
            await self.client.kv_set(key, {"key": key})
        for key in keys:
            self.assertEqual(await self.client.value(key), {"key": key})
        # In a body no key is encoded: the same keys there show that paths are decoded, and once.
        records = await self.client.kv_batch_get(keys)
        self.assertEqual(records, [{"key": key} for key in keys])
        # Byte order is the order of code points.
        self.assertEqual(await self.client.keys(), sorted(keys))
        for key in set(keys) - KEYS_WITHOUT_LINKS:
            await self.client.kv_link(key, "docs/a b", key)
            [link] = await self.client.kv_get_links(key)
            self.assertEqual((link["collection"], link["document_id"]), ("docs/a b", key))
            await self.client.kv_unlink(key, "docs/a b", key)
            self.assertEqual(await self.client.kv_get_links(key), [])
        for key in keys:
            await self.client.kv_delete(key)
            self.assertIsNone(await self.client.kv_get(key))
        self.assertEqual(await self.client.keys(), [])

    async def test_a_ttl_ends_a_key_and_a_set_without_one_keeps_it(self):
        begin = time.monotonic()
        for key, ttl in [("unit", "1s"), ("digits", "1"), ("chain", "1s 100ms"), ("kept", "1s"),
                         ("long", "1h 30m")]:
            await self.client.kv_set(key, {"ttl": ttl}, ttl=ttl)
        await self.client.kv_set("kept", {"ttl": None})
        batch = [{"key": f"batch {n}", "value": {"n": n}} for n in range(2)]
        batch[1]["ttl"] = 1
        await self.client.kv_batch_set(batch)

        for key, seconds in [("unit", 1), ("digits", 1), ("batch 0", 1), ("batch 1", 1),
                             ("chain", 1.1)]:
            await self.expires(key, begin, seconds)
        self.assertEqual(await self.client.value("kept"), {"ttl": None})
        self.assertEqual(await self.client.value("long"), {"ttl": "1h 30m"})

        # Gone is gone for every call, but for the one that asks for what has expired.
        self.assertIsNone(await self.client.kv_get("unit"))
        self.assertEqual(await self.client.kv_batch_get(["unit"]), [{}])
        self.assertEqual(await self.client.kv_batch_delete(["unit"]), [("unit", False)])
        with self.assertRaisesRegex(RuntimeError, "not found"):
            await self.client.kv_get_links("digits")
        self.assertEqual(await self.client.keys(), ["kept", "long"])
        records = {record["key"]: record for record in await self.client.kv_find(None, True)}
        self.assertEqual(set(records), {"batch 0", "batch 1", "chain", "digits", "kept", "long",
                                        "unit"})
        self.assertIs(records["digits"]["expired"], True)
        self.assertNotIn("value", records["digits"])
        self.assertNotIn("expired", records["long"])

    async def test_batches_answer_for_each_key_in_order(self):
        entries = [{"key": "a", "value": ADA}, {"key": "b/c", "value": {"value": 7}},
                   {"key": "a", "value": {"n": 2}}, {"key": "", "value": {}},
                   {"key": "k" * 1025, "value": {}}]
        self.assertEqual(
            await self.client.kv_batch_set(entries),
            [("a", True), ("b/c", True), ("a", True), ("", False), ("k" * 1025, False)])
        # The last of two wins. An envelope is unwrapped, as in a single set.
        self.assertEqual(await self.client.value("a"), {"n": 2})
        self.assertEqual(await self.client.value("b/c"), 7)
        self.assertEqual(await self.client.kv_batch_get(["b/c", "missing", "a", "a"]),
                         [{"value": 7}, {}, {"n": 2}, {"n": 2}])
        await self.client.kv_set("single", ADA)
        self.assertEqual(await self.client.kv_batch_get(["single"]), [ADA])
        self.assertEqual(await self.client.kv_batch_delete(["a", "missing", "single"]),
                         [("a", True), ("missing", False), ("single", True)])
        self.assertEqual(await self.client.kv_batch_get(["a", "b/c"]), [{}, {"value": 7}])
        for call in [self.client.kv_batch_get, self.client.kv_batch_set,
                     self.client.kv_batch_delete]:
            self.assertEqual(await call([]), [])

    async def test_find_and_query_take_a_pattern(self):
        keys = ["user:1", "user:2", "user:10", "group:1", "über:1", "user/1"]
        await self.client.kv_batch_set([{"key": key, "value": {"is": key}} for key in keys])
        await self.client.kv_set("user:2", {"is": "aged"}, ttl="1h")
        for pattern, expected in [
            (None, ["group:1", "user/1", "user:1", "user:10", "user:2", "über:1"]),
            ("user:.*", ["user:1", "user:10", "user:2"]),
            ("^user:[0-9]$", ["user:1", "user:2"]),
            # A pattern matches anywhere, and its case counts.
            ("er:1", ["user:1", "user:10", "über:1"]),
            ("USER", []),
            ("(?i)^USER.1$", ["user/1", "user:1"]),
        ]:
            self.assertEqual(await self.client.keys(pattern), expected, pattern)
            queried = await self.client.kv_query(pattern)
            self.assertEqual([record["key"] for record in queried], expected, pattern)
        plain, aged = await self.client.kv_query("^user:[12]$", include_expired=True)
        self.assertEqual(plain["value"], {"is": "user:1"})
        self.assertNotIn("expires_at", plain)
        self.assertEqual(aged["value"], {"is": "aged"})
        self.assertRegex(aged["expires_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        # Versions count the changes of the store, one by one.
        self.assertEqual(aged["version"], plain["version"] + len(keys))
        with self.assertRaisesRegex(RuntimeError, r"\(400\).*pattern"):
            await self.client.kv_find("user:(")

    async def test_links_belong_to_the_key(self):
        with self.assertRaisesRegex(RuntimeError, "not found"):
            await self.client.kv_link("cart:1", "users", "ada")
        with self.assertRaisesRegex(RuntimeError, "not found"):
            await self.client.kv_get_links("cart:1")
        await self.client.kv_set("cart:1", ADA)
        self.assertEqual(await self.client.kv_get_links("cart:1"), [])
        for collection, document in [("users", "ada"), ("orders", "a/b 1"), ("users", "ada")]:
            self.assertIsNone(await self.client.kv_link("cart:1", collection, document))
        links = await self.client.kv_get_links("cart:1")
        self.assertEqual(
            [(link["collection"], link["document_id"], link["record_id"], link["metadata"])
             for link in links],
            [("orders", "a/b 1", "a/b 1", {}), ("users", "ada", "ada", {})])
        for link in links:
            self.assertRegex(link["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")

        # They survive an overwrite, and go with the key.
        await self.client.kv_set("cart:1", {})
        self.assertEqual(await self.client.kv_get_links("cart:1"), links)
        self.assertIsNone(await self.client.kv_unlink("cart:1", "orders", "a/b 1"))
        self.assertEqual(await self.client.kv_get_links("cart:1"), links[1:])
        for key, document in [("cart:1", "a/b 1"), ("cart:2", "ada")]:
            with self.assertRaisesRegex(RuntimeError, "not found"):
                await self.client.kv_unlink(key, "orders", document)
        await self.client.kv_delete("cart:1")
        await self.client.kv_set("cart:1", {})
        self.assertEqual(await self.client.kv_get_links("cart:1"), [])

    async def test_a_clear_takes_everything_and_the_store_goes_on(self):
        await self.client.kv_set("single", ADA)
        await self.client.kv_link("single", "users", "ada")
        await self.client.kv_batch_set([{"key": "batch", "value": ADA, "ttl": 3600}])
        self.assertIsNone(await self.client.kv_clear())
        self.assertEqual(await self.client.kv_find(None, True), [])
        self.assertEqual(await self.client.kv_batch_get(["single", "batch"]), [{}, {}])
        await self.client.kv_set("single", {"new": True})
        self.assertEqual(await self.client.value("single"), {"new": True})
        self.assertEqual(await self.client.kv_get_links("single"), [])

    async def test_a_refusal_says_why_and_stores_nothing(self):
        for key, value, ttl, reason in [
            ("k" * 1025, {}, None, r"\(400\).*key"),
            ("", {}, None, r"\(400\).*key"),
            ("large", {"text": "x" * (3 << 19)}, None, r"\(413\).*value"),
            ("larger", {"text": "x" * (3 << 20)}, None, r"\(413\).*body"),
            ("aged", {}, "0", r"\(400\).*ttl"),
            ("aged", {}, "-5s", r"\(400\).*ttl"),
            ("aged", {}, "5 parsecs", r"\(400\).*ttl"),
        ]:
            with self.assertRaisesRegex(RuntimeError, reason):
                await self.client.kv_set(key, value, ttl=ttl)
        with self.assertRaisesRegex(RuntimeError, r"\(400\).*ttl"):
            await self.client.kv_batch_set([{"key": "aged", "value": {}, "ttl": 0}])
        self.assertEqual(await self.client.keys(), [])

    async def test_a_wrong_key_opens_nothing(self):
        right = self.server.admin_key
        await self.client.kv_set("key", ADA)
        for wrong in ["", "wrong", right + "x", right[:-1]]:
            stranger = self.connect(wrong)
            for call in [stranger.kv_get("key"), stranger.kv_set("key", {}), stranger.kv_find(),
                         stranger.kv_clear(), stranger.kv_get_links("key"),
                         stranger.refresh_token()]:
                with self.assertRaisesRegex(RuntimeError, "401") as raised:
                    await call
                self.assertNotIn(right, str(raised.exception))
        self.assertEqual(await self.client.value("key"), ADA)

    async def test_a_refused_token_is_replaced_under_a_client_that_stays(self):
        first = await self.client.refresh_token()
        self.assertEqual(first.count("."), 2, "a JWT has three parts")
        await self.client.kv_set("key", ADA)
        await self.client.clear_token_cache()
        self.assertEqual(await self.client.value("key"), ADA)

        self.server.stop()
        (self.server.data_dir / "jwt-secret").unlink()
        self.server.start()
        # Every token of before is void; what succeeds has fetched another one.
        self.assertEqual(await self.client.value("key"), ADA)
        self.assertNotEqual(await self.client.refresh_token(), first)

    async def test_what_was_acknowledged_survives_kill_9(self):
        await self.client.kv_set("aged", ADA, ttl="1h")
        await self.client.kv_set("gone", ADA)
        await self.client.kv_link("aged", "users", "ada")
        await self.client.kv_delete("gone")
        links = await self.client.kv_get_links("aged")
        for turn in range(3):
            await asyncio.gather(
                *(self.client.kv_set(f"turn {turn}/{n}", {"n": n}) for n in range(20)),
                self.client.kv_batch_set([{"key": "last", "value": {"turn": turn}}]))
            before = await self.client.kv_find(None, True)
            self.server.kill()
            self.server.start()
            self.assertEqual(await self.client.kv_find(None, True), before)
            self.assertEqual(await self.client.value("last"), {"turn": turn})
            self.assertEqual(await self.client.kv_get_links("aged"), links)
            self.assertIsNone(await self.client.kv_get("gone"))
        self.assertEqual(len(before), 3 * 20 + 2)

    async def test_sessions_from_login_to_cleanup(self):
        for session, user in [("1", "ada"), ("2", "ada"), ("3", "bob")]:
            key = f"session:{user}:{session}"
            await self.client.kv_set(key, {"user": user}, ttl="30m")
            await self.client.kv_link(key, "users", user)
        self.assertEqual(await self.client.value("session:ada:1"), {"user": "ada"})
        [link] = await self.client.kv_get_links("session:bob:3")
        self.assertEqual((link["collection"], link["document_id"]), ("users", "bob"))
        mine = await self.client.keys("^session:ada:")
        self.assertEqual(mine, ["session:ada:1", "session:ada:2"])
        ended = await self.client.kv_batch_delete(mine)
        self.assertEqual(ended, [(key, True) for key in mine])
        self.assertEqual(await self.client.keys("^session:"), ["session:bob:3"])


def main():
    outcome = unittest.main(argv=["stories.py"], verbosity=2, exit=False).result
    calls = {name for name in dir(ekodb_client.Client) if name.startswith("kv_")}
    missed = sorted((calls | {"health", "health_status"}) - called)
    if missed:
        print(f"calls of the SDK that no test makes: {', '.join(missed)}", file=sys.stderr)
    version = ekodb_client.__version__
    print(f"ekodb-client {version}: {len(calls)} key-value calls, {outcome.testsRun} stories")
    sys.exit(0 if outcome.wasSuccessful() and outcome.testsRun > 0 and not missed else 1)


if __name__ == "__main__":
    main()
