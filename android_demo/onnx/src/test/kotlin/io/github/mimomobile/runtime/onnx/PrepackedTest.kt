package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.Progress
import io.github.mimomobile.runtime.Speculation
import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.Verification
import io.github.mimomobile.runtime.devices.MemoryCheck
import io.github.mimomobile.runtime.nano
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.resized
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import kotlinx.coroutines.CancellationException
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

class PrepackedTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val cache by lazy { temporary.newFolder("cache") }
    private val config by lazy {
        EngineConfig { threads = 1; speculation = Speculation.MTP; cacheFolder = cache }
    }

    private val runtime by lazy { OrtRuntime(config) }
    private val kept by lazy { Prepacked(cache, runtime.environment.version, Verification.SHA256, 0) }
    private val models = listOf("model.onnx", "mtp.onnx").map { File(nanoOnnx, it) }

    private fun entries() = cache.walk().filter { it.name == "sums.txt" }.map { it.parentFile }.sorted().toList()

    /** Logits and a draft of nano, and how much of it is mapped. */
    private fun run(config: EngineConfig = this.config, root: File = nano): Pair<List<FloatArray>, Long> =
        loader(root, config, leastKeptBytes = 0).load { _, _ -> }.use { model ->
            val ids = IntArray(200) { 40 + it % 900 }
            val logits = model.backend.decode(ids, 0).single().copyOf()
            listOf(logits, model.backend.mtp!!.draft(200, 50).copyOf()) to model.info.mappedBytes
        }

    private val plain by lazy { run(config.copy { cacheFolder = null }).first }

    private fun check(found: List<FloatArray>) =
        plain.zip(found).forEach { (one, other) -> assertArrayEquals(one, other, 0f) }

    /** Keeps nano as it is: what ONNX Runtime 1.29 makes of weights as small as nano's is wrong, and not kept. */
    private fun keep(model: File): File = checkNotNull(
        kept.make(model, 1) { folder -> copyInto(folder, model) },
    )

    private fun copyInto(folder: File, model: File) {
        model.copyTo(File(folder, Prepacked.MODEL))
        File(nanoOnnx, Prepacked.DATA).copyTo(File(folder, Prepacked.DATA))
    }

    @Test
    fun `with a cache nano computes the same, whatever ONNX Runtime keeps of it`() {
        val mapped = List(3) { run().also { check(it.first) }.second }
        assertEquals(mapped.toString(), entries().isNotEmpty(), mapped.last() > 0)
    }

    @Test
    fun `what is kept is mapped`() {
        models.forEach(::keep)
        assertTrue(models.none(kept::isTested))
        check(run().first)
        assertTrue(models.all(kept::isTested))
        val made = entries().associateWith { it.lastModified() }
        val (found, mapped) = run()
        check(found)
        assertEquals(models.sumOf { (1.2 * weightBytes(it)).toLong() }, mapped)
        assertEquals(made, entries().associateWith { it.lastModified() })
        assertEquals(0L, run(config.copy { cacheFolder = null }).second)
    }

    @Category(Sweep::class)
    @Test
    fun `a damaged entry is not used, but made anew`() {
        val damages = listOf<(File) -> Unit>(
            { data -> RandomAccessFile(data, "rw").use { it.setLength(it.length() / 2) } },
            { data -> data.writeBytes(data.readBytes().also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() }) },
            { data -> File(data.parentFile, "sums.txt").writeText("?") },
            { data -> File(data.parentFile, "sums.txt").delete() },
            { data -> data.delete() },
        )
        for (damage in damages) {
            cache.deleteRecursively()
            repeat(2) { // made anew over what was damaged
                models.forEach { assertEquals(keep(it), kept.find(it)) }
                models.forEach { damage(File(kept.find(it)!!.parentFile, Prepacked.DATA)) }
                assertTrue(models.all { kept.find(it) == null })
            }
            check(run().first)
        }
    }

    @Test
    fun `an entry is hashed when it is made and when it was changed, with progress, and at no other load`() {
        models.forEach(::keep)
        val told = linkedSetOf<Pair<Long, Long>>()
        fun load(progress: Progress) = loader(nano, config.copy { verification = Verification.SHA256 }, 0)
            .load(progress).close()
        load { done, total -> told += done to total }
        assertEquals("$told", 1, told.count { it.first == it.second }) // the model's own files
        val made = linkedSetOf<Pair<Long, Long>>()
        cache.deleteRecursively()
        Prepacked(cache, runtime.environment.version, Verification.SIZE, 0) { done, total -> made += done to total }
            .make(models[0], 1) { folder -> copyInto(folder, models[0]) }
        assertTrue("$made", made.size > 3 && made.last().let { it.first == it.second })
        keep(models[1])
        told.clear()
        load { done, total -> told += done to total }
        assertEquals(1, told.count { it.first == it.second })
        entries().forEach { File(it, Prepacked.DATA).setLastModified(1_000_000_000_000) }
        told.clear()
        load { done, total -> told += done to total }
        assertEquals(3, told.count { it.first == it.second })
    }

    @Test
    fun `who gives up while an entry is hashed is told no other error, and the entry stays`() {
        val model = keep(models[0])
        File(model.parentFile, Prepacked.DATA).setLastModified(1_000_000_000_000)
        val giving = Prepacked(cache, runtime.environment.version, Verification.SHA256, 0) { _, _ ->
            throw CancellationException("enough")
        }
        assertThrows(CancellationException::class.java) { giving.find(models[0]) }
        assertEquals(model, kept.find(models[0]))
    }

    @Test
    fun `what is kept of a model that is gone is removed, and nothing else`() {
        val copy = temporary.newFolder()
        val model = models[0].copyTo(File(copy, "model.onnx"))
        File(nanoOnnx, Prepacked.DATA).copyTo(File(copy, Prepacked.DATA))
        keep(model)
        keep(models[0])
        val foreign = File(cache, "notes").apply { mkdir() }.resolve("a.txt").apply { writeText("mine") }
        val used = WeightCache.usedBytes(cache)
        assertEquals(0L, WeightCache.clean(cache))
        model.delete()
        val freed = WeightCache.clean(cache)
        assertTrue("$freed", freed > File(nanoOnnx, Prepacked.DATA).length())
        assertEquals(used - freed, WeightCache.usedBytes(cache))
        assertEquals(1, entries().size)
        assertTrue(foreign.isFile)
        models.forEach { keep(it) }
        run(config.copy { cacheFolder = cache }) // of nano, which is there: nothing goes
        assertEquals(2, entries().size)
        assertEquals(0L, WeightCache.clean(File(cache, "missing")))
        val manifest = ModelManifest.parse(File(nano, ModelManifest.NAME).readText(), "int4_b32")
        assertEquals((2.4 * File(nanoOnnx, Prepacked.DATA).length()).toLong(), WeightCache.neededBytes(manifest))
    }

    @Test
    fun `an entry that cannot be loaded is removed, and the model itself loaded`() {
        for (model in models) keep(model).run { writeBytes(ByteArray(length().toInt())) }
        val (found, mapped) = run(config.copy { verification = Verification.SIZE })
        check(found)
        assertEquals(0L, mapped)
        assertEquals(emptyList<File>(), entries())
    }

    @Test
    fun `entries of another state of the model and halves of a killed engine are removed`() {
        val copy = temporary.newFolder()
        val model = models[0].copyTo(File(copy, "model.onnx"))
        File(nanoOnnx, Prepacked.DATA).copyTo(File(copy, Prepacked.DATA))
        keep(models[0])
        val first = keep(model)
        assertEquals(2, entries().size) // another place is another model
        File(copy, Prepacked.DATA).setLastModified(1_000_000_000_000)
        assertNull(kept.find(model))
        val half = File(first.parentFile.parentFile, "partial").apply { mkdir() }
        File(half, Prepacked.MODEL).writeText("half")
        assertTrue(keep(model) != first)
        assertTrue(!first.exists() && !half.exists())
        assertEquals(2, entries().size)
    }

    @Test
    fun `what is mapped is tested once, and not used when it is wrong`() {
        val root = temporary.newFolder().also { nano.copyRecursively(it, overwrite = true) }
        val model = root.walk().single { it.name == "model.onnx" }
        kept.make(model, 1) { folder ->
            model.copyTo(File(folder, Prepacked.MODEL))
            val data = File(model.parentFile, Prepacked.DATA).readBytes()
            File(folder, Prepacked.DATA).writeBytes(data.also { it.fill(0x55, 0, it.size / 2) })
        }
        val trunkOnly = config.copy { speculation = Speculation.OFF }
        repeat(2) {
            loader(root, trunkOnly, leastKeptBytes = 0).load { _, _ -> }.use { loaded ->
                assertEquals(0L, loaded.info.mappedBytes)
                val ids = IntArray(200) { 40 + it % 900 }
                assertArrayEquals(plain[0], loaded.backend.decode(ids, 0).single(), 0f)
            }
            assertEquals(1, cache.walk().count { it.name == "refused" })
        }
    }

    @Test
    fun `what gives wrong numbers is refused for good`() {
        val refused = { cache.walk().filter { it.name == "refused" }.count() }
        kept.refuse(models[0])
        assertEquals(1, refused())
        assertNull(kept.make(models[0], 1) { throw AssertionError("made again") })
        assertNull(kept.find(models[0]))
        cache.deleteRecursively()
        // ONNX Runtime 1.29's is recognized when it is made, later ones' is right: neither is made at every load.
        run()
        val before = cache.walk().filter { it.isFile }.associateWith { it.lastModified() }
        assertTrue(refused() == models.size || entries().size == models.size)
        run()
        assertEquals(before, cache.walk().filter { it.isFile }.associateWith { it.lastModified() })
    }

    @Test
    fun `without a reference to test it with nothing is kept`() {
        val root = temporary.newFolder().also { nano.copyRecursively(it, overwrite = true) }
        root.walk().single { it.name == "reference.json" }.delete()
        check(run(config.copy { verification = Verification.SIZE }, resized(root)).first)
        assertEquals(emptyList<File>(), cache.listFiles()!!.toList())
    }

    @Test
    fun `without room, beside another engine and after errors nothing is kept`() {
        val prepacked = Prepacked(cache, "1", Verification.SIZE, 10)
        assertTrue(prepacked.wants(10) && !prepacked.wants(9))
        val model = File(nanoOnnx, "model.onnx")
        assertNull(prepacked.make(model, Long.MAX_VALUE / 4) { throw AssertionError("no room for it") })
        assertNull(prepacked.make(model, 1) { throw IOException("storage") })
        assertNull(prepacked.make(model, 1) { File(it, Prepacked.MODEL).writeText("half") })
        assertNull(prepacked.make(model, 1) { assertNull(prepacked.make(model, 1) {}) }) // and nothing was written
        assertEquals(emptyList<File>(), entries())
        assertEquals(emptyList<String>(), cache.walk().filter { it.name == "partial" }.map { it.path }.toList())
        assertNull(prepacked.find(model))
    }

    @Test
    fun `weights of a graph are counted, and of no graph there are none`() {
        val data = File(nanoOnnx, "model.onnx.data").length()
        val (trunk, layer) = models.map(::weightBytes)
        assertTrue("$trunk $layer", trunk in data / 2 until data && layer in data / 10 until trunk)
        assertTrue("$trunk $layer $data", trunk + layer >= data)
        for (bytes in listOf(byteArrayOf(), byteArrayOf(0x3A, 0x7F, 1), ByteArray(9) { -1 }, byteArrayOf(0x3F))) {
            assertEquals(0L, weightBytes(temporary.newFile().apply { writeBytes(bytes) }))
        }
        assertEquals(0L, weightBytes(File("/nonexistent")))
    }

    @Test
    fun `buffers that kernels would misread are recognized`() {
        fun model(place: String): File {
            fun field(number: Int, value: ByteArray) =
                byteArrayOf((number shl 3 or 2).toByte(), value.size.toByte()) + value
            fun pair(key: String, value: String) = field(1, key.toByteArray()) + field(2, value.toByteArray())
            val tensor = field(13, pair("offset", "7")) + field(13, pair("prepacked_0", place))
            return temporary.newFile().apply { writeBytes(field(7, field(5, tensor))) }
        }
        assertTrue(isAligned(model("MatMulNBits+1|4096;98430;0|128;9;0")))
        assertTrue(!isAligned(model("MatMulNBits+1|4096;98430;0|102526;9;0")))
        assertTrue(!isAligned(model("MatMulNBits+1|?")))
        assertTrue(isAligned(models[0]))
    }

    @Test
    fun `mapped weights need room beside what comes later`() {
        val memory = MemoryCheck(File("model")) { 1_000_000_000 }
        memory.fits("weights", 1_000_000_000)
        memory.maps(600_000_000)
        memory.fits("KV cache", 400_000_000)
        val error = assertThrows(MimoException.MemoryFull::class.java) { memory.fits("KV cache", 400_000_001) }
        assertTrue(error.message!!, "0.40 GB of memory needed for KV cache beside 0.60 GB of mapped weights" in error.message!!)
        val small = assertThrows(MimoException.MemoryFull::class.java) { MemoryCheck(File("model")) { 0 }.fits("KV cache", 1) }
        assertTrue(small.message!!, "0.0 MB available" in small.message!!)
    }
}
