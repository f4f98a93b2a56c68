package io.github.mimomobile.demo

import io.github.mimomobile.demo.models.FolderProvider
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicBoolean
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config

/** The app's process. Robolectric ends it after each test, and keeps folders in static fields for the next one. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
class MimoAppTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `no work goes on when the process has ended, even in the middle of a slow read`() {
        val began = CountDownLatch(1)
        val ended = AtomicBoolean()
        FolderProvider.beforeListing = {
            began.countDown()
            Thread.sleep(300)
            ended.set(true)
        }
        try {
            application.models.import(FolderProvider.tree(temporary.root), move = false)
            began.await()
            application.onTerminate()
            assertTrue("a folder is being read", ended.get())
        } finally {
            FolderProvider.beforeListing = {}
        }
    }
}
