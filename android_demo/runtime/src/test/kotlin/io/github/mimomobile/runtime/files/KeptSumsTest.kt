package io.github.mimomobile.runtime.files

import java.io.File
import java.nio.file.Files
import java.nio.file.StandardCopyOption.REPLACE_EXISTING
import java.nio.file.attribute.FileTime
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class KeptSumsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private val later = System.currentTimeMillis() + 60_000
    private val sum = sha256("a model")

    private fun file(name: String, text: String = "GGUF") = File(temporary.root, name).apply { writeText(text) }

    private fun identity(file: File): String = checkNotNull(identityOf(file, later)) { "$file has no identity" }

    private fun folder() = File(temporary.root, "measurements")

    private fun kept() = checkNotNull(folder().listFiles()).single()

    @Test
    fun `a file is the same until it is changed, also when its time is put back, and until another is in its place`() {
        val file = file("model.gguf")
        val first = identity(file)
        assertEquals(first, identity(file))
        assertEquals(first, identity(File(temporary.root, "../${temporary.root.name}/model.gguf").canonicalFile))
        val time = Files.getLastModifiedTime(file.toPath())
        Thread.sleep(20) // the file system's clock ticks
        file.writeText("GGML")
        Files.setLastModifiedTime(file.toPath(), time)
        val second = identity(file)
        assertNotEquals(first, second)
        val other = file("other.gguf").also { Files.setLastModifiedTime(it.toPath(), time) }
        Files.move(other.toPath(), file.toPath(), REPLACE_EXISTING)
        assertNotEquals(second, identity(file))
    }

    @Test
    fun `what is open is known by its file and not by its number`() {
        val (one, two) = Pair(file("one.gguf"), file("two.gguf"))
        val (number, first) = OpenFile(one).use { Pair(it.path, identity(it.path)) }
        OpenFile(two).use { opened ->
            assertEquals(number, opened.path) // or this shows nothing
            assertNotEquals(first, identity(opened.path))
            OpenFile(one).use { again ->
                assertNotEquals(number, again.path)
                assertEquals(first, identity(again.path))
            }
        }
    }

    @Test
    fun `nothing is sure of what was changed just now, has no time, or is not there`() {
        val file = file("model.gguf")
        assertNull(identityOf(file))
        assertNotNull(identityOf(file, later))
        Files.setLastModifiedTime(file.toPath(), FileTime.fromMillis(0)) // as of what is made while it is read
        assertNull(identityOf(file, later))
        assertNull(identityOf(File(temporary.root, "gone"), later))
        assertNull(identityOf(File("/proc/self/fd/99999"), later))
        assertNull(identityOf(File("/proc/self/status"), later))
    }

    @Test
    fun `a sum is found again by the identity that it was kept for alone`() {
        val sums = KeptSums(folder())
        assertNull(sums.recall("a"))
        sums.keep("a", sum)
        assertEquals(sum, KeptSums(folder()).recall("a"))
        assertNull(sums.recall("b"))
        sums.keep("a", sha256("another"))
        assertEquals(sha256("another"), sums.recall("a"))
        assertEquals(1, folder().list()!!.size) // and nothing unfinished
    }

    @Test
    fun `what is damaged or something else is no sum, and is replaced`() {
        val sums = KeptSums(folder())
        sums.keep("a", sum)
        val place = kept()
        val tooLong = " ".repeat(200) + sum
        for (text in listOf("", sum.dropLast(1), sum + "0", sum.uppercase(), "$sum\n$sum", "x".repeat(64), tooLong)) {
            place.writeText(text)
            assertNull(text, sums.recall("a"))
        }
        sums.keep("a", sum)
        assertEquals(sum, sums.recall("a"))
        place.delete()
        Files.createSymbolicLink(place.toPath(), file("elsewhere", sum).toPath())
        assertNull(sums.recall("a"))
        place.delete()
        place.mkdirs()
        assertNull(sums.recall("a"))
        File(place, "something").writeText("in it")
        sums.keep("a", sum) // cannot be done, and does no harm
        assertNull(sums.recall("a"))
    }

    @Test
    fun `where nothing can be written nothing is kept`() {
        val sums = KeptSums(file("no folder"))
        sums.keep("a", sum)
        assertNull(sums.recall("a"))
    }
}
