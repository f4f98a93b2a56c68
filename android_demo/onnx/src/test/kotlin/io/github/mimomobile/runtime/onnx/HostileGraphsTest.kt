package io.github.mimomobile.runtime.onnx

import io.github.mimomobile.runtime.Sweep
import io.github.mimomobile.runtime.files.Mutations
import io.github.mimomobile.runtime.files.checkFormat
import io.github.mimomobile.runtime.files.goodOnes
import io.github.mimomobile.runtime.files.holdFile
import io.github.mimomobile.runtime.nanoOnnx
import io.github.mimomobile.runtime.npu.NpuFolder
import java.io.File
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder

/** Files of others that only this module reads: they are read as Python's readers do, or refused, whatever is in them. */
class HostileGraphsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    private fun npuFile() = temporary.newFolder("qnn-X").resolve("npu.json")

    @Test
    fun `npu_json is accepted or refused as the table says`() = checkFormat("npu", npuFile()) {
        NpuFolder.find(it.parentFile.parentFile, null)
    }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `any npu_json is read or refused`() = holdFile(npuFile(), goodOnes("npu"), 5_000) {
        NpuFolder.find(it.parentFile.parentFile, null)
    }

    @Category(Sweep::class)
    @Test(timeout = 120_000)
    fun `a graph's places of weights are read or passed over`() {
        val content = File(nanoOnnx, "model.onnx").readBytes()
        val file = temporary.newFile("model.onnx")
        for (seed in 0 until 1_000) {
            file.writeBytes(Mutations(seed).flip(content).let { if (seed % 3 == 0) it.copyOf(seed * 37 % it.size) else it })
            weightBytes(file)
            isAligned(file)
        }
    }
}
